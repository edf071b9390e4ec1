import type { ModelConfig } from "../config.ts";

/**
 * Cosines and sines of rotate-half RoPE. Angles are rounded to f32 where the model's training rounds them: at position 1000
 * an exact angle would differ by more than the rest of the arithmetic does.
 */
export class Rope {
  readonly #half: number;
  /** [contextLength, headDim / 2] */
  readonly #cosines: Float32Array;
  readonly #sines: Float32Array;

  constructor({ contextLength, headDim, ropeTheta }: ModelConfig) {
    this.#half = headDim / 2;
    this.#cosines = new Float32Array(contextLength * this.#half);
    this.#sines = new Float32Array(contextLength * this.#half);
    for (let i = 0; i < this.#half; i++) {
      const frequency = Math.fround(1 / Math.fround(ropeTheta ** ((2 * i) / headDim)));
      for (let position = 0; position < contextLength; position++) {
        const angle = Math.fround(position * frequency);
        this.#cosines[position * this.#half + i] = Math.cos(angle);
        this.#sines[position * this.#half + i] = Math.sin(angle);
      }
    }
  }

  /** [contextLength, headDim / 2, 2]: each cosine with its sine. */
  pairs(): Float32Array {
    const pairs = new Float32Array(2 * this.#cosines.length);
    for (let i = 0; i < this.#cosines.length; i++) {
      pairs[2 * i] = this.#cosines[i] as number;
      pairs[2 * i + 1] = this.#sines[i] as number;
    }
    return pairs;
  }

  /** Rotates the `numHeads` heads at `target[at]`; reading from `source` lets a move and a rotation be one. */
  rotate(
    position: number,
    numHeads: number,
    source: Float32Array,
    from: number,
    target: Float32Array,
    at: number,
  ): void {
    const half = this.#half;
    const table = position * half;
    // No array of both is made here to be taken apart: that alone would cost as much as the arithmetic.
    const cosines = this.#cosines;
    const sines = this.#sines;
    for (let i = 0; i < half; i++) {
      const cosine = cosines[table + i] as number;
      const sine = sines[table + i] as number;
      for (
        let head = 0, read = from + i, write = at + i;
        head < numHeads;
        head++, read += 2 * half, write += 2 * half
      ) {
        const first = source[read] as number;
        const second = source[read + half] as number;
        target[write] = first * cosine - second * sine;
        target[write + half] = second * cosine + first * sine;
      }
    }
  }
}
