import { dequantize } from "../../../../models/dequantize.ts";
import { Random, toBf16 } from "../../../../models/kernels/check/numbers.ts";

/** Elements of a pattern that is repeated through a tensor: no power of two, so that rows of a matrix differ. */
const LENGTH = 61_441;

/** Positive e4m3 in ascending order: bits 0 to 126. */
const E4M3 = new Float32Array(127);
dequantize("F8_E4M3", Uint8Array.from(E4M3.keys()), E4M3);

/** Numbers that tensors are filled with: normal, as activations and weights are; zeros would run faster than they may. */
export class Patterns {
  readonly #random: Random;
  readonly #normal: Float64Array;
  readonly #bf16: Uint16Array;
  readonly #e4m3: Uint8Array;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#normal = Float64Array.from({ length: LENGTH }, () => this.#random.normal());
    this.#bf16 = toBf16(this.#normal);
    this.#e4m3 = Uint8Array.from(this.#normal, nearestE4m3);
  }

  /** Standard deviation 1. `from` is where in the pattern to begin. */
  bf16(from = 0): Uint16Array {
    return this.#bf16.subarray(from % 30_000);
  }

  e4m3(): Uint8Array {
    return this.#e4m3;
  }

  f32(size: number): Float32Array {
    return Float32Array.from(this.#normal, (value) => value * size);
  }

  /** Positive, about `size`. */
  scales(size: number): Float32Array {
    return Float32Array.from(this.#normal, (value) => size * (0.5 + (Math.abs(value) % 1)));
  }

  /** 0 … count - 1 in random order. */
  shuffled(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.#random.below(i + 1);
      [order[i], order[j]] = [order[j] as number, order[i] as number];
    }
    return order;
  }
}

/** Bits of the e4m3 next to a number of moderate size. */
function nearestE4m3(value: number): number {
  const size = Math.abs(value);
  let [low, high] = [0, E4M3.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((E4M3[middle] as number) <= size) low = middle;
    else high = middle;
  }
  const bits = size - (E4M3[low] as number) <= (E4M3[high] as number) - size ? low : high;
  return value < 0 ? bits | 0x80 : bits;
}
