import type { Clock } from "../../infra/clock.ts";

/** As many at once as a replica that dies may hold. */
const MOST = 16;
const PER_ANSWER = 0.1;
const PER_SECOND = 10;

/**
 * How many dispatches may be sent to a second replica because the first is late: about one of ten. When everything is slow
 * because there is too much to do, more of it would make everything slower.
 */
export class Hedges {
  readonly #clock: Clock;
  #left = MOST;
  #at: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#at = clock.elapsed();
  }

  answered(): void {
    this.#left = Math.min(MOST, this.#left + PER_ANSWER);
  }

  take(): boolean {
    const now = this.#clock.elapsed();
    this.#left = Math.min(MOST, this.#left + ((now - this.#at) * PER_SECOND) / 1000);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }
}
