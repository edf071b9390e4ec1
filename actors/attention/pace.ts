import type { Clock } from "../../infra/clock.ts";

const WINDOW_MS = 1_000;
/** A window without a token, e.g. while there was nothing to do, says nothing about the pace. */
const WEIGHT = 0.3;

/** How fast this actor makes tokens, all its requests together. */
export class Pace {
  readonly #clock: Clock;
  #tokensPerMs: number | undefined;
  #windowFrom: number;
  #inWindow = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#windowFrom = clock.elapsed();
  }

  tokens(count: number): void {
    const now = this.#clock.elapsed();
    const passed = now - this.#windowFrom;
    if (passed >= WINDOW_MS) {
      // Longer than two windows: there was a pause in it.
      if (passed < 2 * WINDOW_MS && this.#inWindow > 0) {
        const rate = this.#inWindow / passed;
        this.#tokensPerMs =
          this.#tokensPerMs === undefined ? rate : this.#tokensPerMs + WEIGHT * (rate - this.#tokensPerMs);
      }
      this.#windowFrom = now;
      this.#inWindow = 0;
    }
    this.#inWindow += count;
  }

  /** How long one of `numRequests` takes for `numTokens`; 0 while nothing is known. */
  msFor(numTokens: number, numRequests: number): number {
    return this.#tokensPerMs === undefined ? 0 : (numTokens * numRequests) / this.#tokensPerMs;
  }
}
