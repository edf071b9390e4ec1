import { dequantize } from "../../dequantize.ts";
import { philox4x32 } from "../../sampling/random.ts";

/** Repeatable random numbers. */
export class Random {
  readonly #seed: number;
  #position = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** 0 … limit - 1 */
  below(limit: number): number {
    return Math.floor(this.#fraction() * limit);
  }

  /** Roughly normal, mean 0. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.#fraction())) * Math.cos(2 * Math.PI * this.#fraction());
  }

  /** bf16 of the given size, as their bits. */
  bf16(length: number, size = 1): Uint16Array {
    return toBf16(Float64Array.from({ length }, () => this.normal() * size));
  }

  f32(length: number, size = 1): Float32Array {
    return Float32Array.from({ length }, () => this.normal() * size);
  }

  /** e4m3 of all sizes but NaN, as their bits. */
  e4m3(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(2) * 128 + this.below(127));
  }

  /** Positive scales that bring e4m3 to about the given size. */
  scales(length: number, size = 1): Float32Array {
    return Float32Array.from({ length }, () => ((0.5 + this.#fraction()) * size) / 448);
  }

  #fraction(): number {
    return philox4x32([this.#position++], [this.#seed])[0] / 2 ** 32;
  }
}

/** Rounds to nearest, ties to even; finite values only. */
export function toBf16(values: Float64Array): Uint16Array {
  const bits = new Uint32Array(Float32Array.from(values).buffer);
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}

export function fromBf16(bits: Uint16Array): Float64Array {
  const values = new Float32Array(bits.length);
  dequantize("BF16", new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength), values);
  return Float64Array.from(values);
}

export function fromE4m3(bits: Uint8Array): Float64Array {
  const values = new Float32Array(bits.length);
  dequantize("F8_E4M3", bits, values);
  return Float64Array.from(values);
}

/** Of activations: data [T, K], a scale for each 128 values of a token [K/128, T]. */
export function fromQuantised(data: Uint8Array, scales: Float32Array, numTokens: number): Float64Array {
  const width = data.length / numTokens;
  return fromE4m3(data).map(
    (value, i) => value * (scales[Math.floor((i % width) / 128) * numTokens + Math.floor(i / width)] as number),
  );
}
