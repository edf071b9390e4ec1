import { dequantize } from "../../dequantize.ts";
import { philox4x32 } from "../../sampling/random.ts";

/** Repeatable random numbers. */
export class Random {
  readonly #seed: number;
  #position = 0;
  /** Drawn and not used yet. */
  #words: number[] = [];
  #normals: number[] = [];

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** 0 … limit - 1 */
  below(limit: number): number {
    return Math.floor(this.#fraction() * limit);
  }

  /** Roughly normal, mean 0. */
  normal(): number {
    const left = this.#normals.pop();
    if (left !== undefined) return left;
    const radius = Math.sqrt(-2 * Math.log(1 - this.#fraction()));
    const angle = 2 * Math.PI * this.#fraction();
    this.#normals.push(radius * Math.sin(angle));
    return radius * Math.cos(angle);
  }

  /** bf16 of the given size, as their bits. */
  bf16(length: number, size = 1): Uint16Array {
    const values = new Float64Array(length);
    for (let i = 0; i < length; i++) values[i] = this.normal() * size;
    return toBf16(values);
  }

  f32(length: number, size = 1): Float32Array {
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = this.normal() * size;
    return values;
  }

  /** e4m3 of all sizes but NaN, as their bits. */
  e4m3(length: number): Uint8Array {
    const words = new Uint32Array(Math.ceil(length / 4));
    for (let i = 0; i < words.length; i++) words[i] = this.#word();
    const bits = new Uint8Array(words.buffer, 0, length);
    for (let i = 0; i < length; i++) if (((bits[i] as number) & 0x7f) === 0x7f) bits[i] = 0;
    return bits;
  }

  /** Positive scales that bring e4m3 to about the given size. */
  scales(length: number, size = 1): Float32Array {
    return Float32Array.from({ length }, () => ((0.5 + this.#fraction()) * size) / 448);
  }

  #fraction(): number {
    return this.#word() / 2 ** 32;
  }

  #word(): number {
    if (this.#words.length === 0) this.#words = philox4x32([this.#position++], [this.#seed]);
    return this.#words.pop() as number;
  }
}

/** Rounds to nearest, ties to even; finite values only. */
export function toBf16(values: Float64Array): Uint16Array {
  const words = new Uint32Array(new Float32Array(values).buffer);
  const bits = new Uint16Array(words.length);
  for (let i = 0; i < bits.length; i++) {
    const word = words[i] as number;
    bits[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bits;
}

export function fromBf16(bits: Uint16Array): Float64Array {
  const values = new Float32Array(bits.length);
  dequantize("BF16", new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength), values);
  return new Float64Array(values);
}

export function fromE4m3(bits: Uint8Array): Float64Array {
  const values = new Float32Array(bits.length);
  dequantize("F8_E4M3", bits, values);
  return new Float64Array(values);
}

/** Of activations: data [T, K], a scale for each 128 values of a token [K/128, T]. */
export function fromQuantised(data: Uint8Array, scales: Float32Array, numTokens: number): Float64Array {
  const width = data.length / numTokens;
  const values = fromE4m3(data);
  for (let t = 0, at = 0; t < numTokens; t++) {
    for (let i = 0; i < width; i++, at++) {
      values[at] = (values[at] as number) * (scales[(i >> 7) * numTokens + t] as number);
    }
  }
  return values;
}
