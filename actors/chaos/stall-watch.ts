import type { Clock, Timer } from "../../infra/clock.ts";

/** A time in which this process did not run. Milliseconds on the clock that was given. */
export interface Stall {
  readonly fromMs: number;
  readonly toMs: number;
}

const LOOK_EVERY_MS = 20;
/** What a busy machine makes of 20 ms now and then. */
const NOTABLE_MS = 100;

/**
 * Notices when the harness itself stood still (a suspended virtual machine, a machine without a free core): what it could not
 * have seen is no gap of any stream.
 */
export class StallWatch {
  readonly stalls: Stall[] = [];
  readonly #clock: Clock;
  #timer: Timer | undefined;
  #last: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#last = clock.elapsed();
    this.#look();
  }

  close(): void {
    this.#timer?.cancel();
  }

  #look(): void {
    this.#timer = this.#clock.after(LOOK_EVERY_MS, () => {
      const now = this.#clock.elapsed();
      if (now - this.#last > LOOK_EVERY_MS + NOTABLE_MS) {
        this.stalls.push({ fromMs: this.#last + LOOK_EVERY_MS, toMs: now });
      }
      this.#last = now;
      this.#look();
    });
  }
}

/** How much of a span was a stall. */
export function stalledMs(stalls: readonly Stall[], fromMs: number, toMs: number): number {
  return stalls.reduce(
    (sum, stall) => sum + Math.max(0, Math.min(toMs, stall.toMs) - Math.max(fromMs, stall.fromMs)),
    0,
  );
}
