import type { Clock, Timer } from "../../infra/clock.ts";

/** Calls `idle` once nobody has followed for `limitMs`. Costs one timer, however often somebody does. */
export class IdleLimit {
  readonly #clock: Clock;
  readonly #limitMs: number;
  readonly #idle: () => void;
  #followedAt: number;
  #timer: Timer;

  constructor(clock: Clock, limitMs: number, idle: () => void) {
    this.#clock = clock;
    this.#limitMs = limitMs;
    this.#idle = idle;
    this.#followedAt = clock.elapsed();
    this.#timer = this.#watch();
  }

  followed(): void {
    this.#followedAt = this.#clock.elapsed();
  }

  cancel(): void {
    this.#timer.cancel();
  }

  #watch(): Timer {
    const left = this.#followedAt + this.#limitMs - this.#clock.elapsed();
    return this.#clock.after(left, () => {
      if (this.#clock.elapsed() - this.#followedAt >= this.#limitMs) this.#idle();
      else this.#timer = this.#watch();
    });
  }
}
