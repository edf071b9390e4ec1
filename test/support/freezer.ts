import type { Clock, Timer } from "../../infra/clock.ts";

/** Stops one process's time, as SIGSTOP does, while the others' goes on: its timers fire late, on thawing. */
export class Freezer implements Clock {
  readonly #clock: Clock;
  #late: (() => void)[] = [];
  #waiting: (() => void)[] = [];
  isFrozen = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  now(): number {
    return this.#clock.now();
  }

  elapsed(): number {
    return this.#clock.elapsed();
  }

  after(ms: number, callback: () => void): Timer {
    let isCancelled = false;
    const run = () => {
      if (!isCancelled) callback();
    };
    const timer = this.#clock.after(ms, () => (this.isFrozen ? void this.#late.push(run) : run()));
    return {
      cancel: () => {
        isCancelled = true;
        timer.cancel();
      },
    };
  }

  freeze(): void {
    this.isFrozen = true;
  }

  thaw(): void {
    this.isFrozen = false;
    for (const run of [...this.#waiting.splice(0), ...this.#late.splice(0)]) run();
  }

  /** Resolves while the process runs; whatever it wants to do next waits here. */
  async running(): Promise<void> {
    while (this.isFrozen) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
