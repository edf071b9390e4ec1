import { philox4x32 } from "../../models/sampling/random.ts";

/** Repeatable random numbers for tests. */
export class TestRandom {
  readonly #seed: number;
  #position = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** 0 … 2^32-1 */
  word(): number {
    return philox4x32([this.#position++], [this.#seed])[0];
  }

  /** 0 … limit-1 */
  below(limit: number): number {
    return Math.floor((this.word() / 2 ** 32) * limit);
  }

  /** [0, 1) */
  fraction(): number {
    return this.word() / 2 ** 32;
  }

  /** Roughly normal, mean 0. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.fraction())) * Math.cos(2 * Math.PI * this.fraction());
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}
