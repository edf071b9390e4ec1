import { assert } from "../infra/errors.ts";

/** Lengths grow in steps of this many tokens, so that graphs see few shapes and buffers are re-laid rarely. */
export const KV_BLOCK = 64;

/** Where the sequences of one micro-batch have their keys and values, each in a slot. Slots move between passes only. */
export interface KvSlots {
  readonly maxSlots: number;
  readonly maxLength: number;
  /** Makes room for `length` tokens in each of the first `numSlots` slots, keeping what they hold. */
  reserve(length: number, numSlots: number): void;
  /** Gives up room beyond `length` tokens. */
  shrink(length: number, numSlots: number): void;
  /** Exchanges two slots of which the first `length` tokens matter. */
  swap(a: number, b: number, length: number): void;
  /** What the slot holds is needed no more. */
  clear(slot: number): void;
}

/**
 * Keys and values of the sequences of one micro-batch in this machine's memory: per layer one K and one V of [numSlots, stride, headDim], dense from
 * slot 0, so that any run of slots is one contiguous tensor. `stride` (tokens per slot) is as long as the longest sequence
 * needs and grows in place; memory beyond it is never touched, so an idle cache costs nothing.
 */
export class KvCache implements KvSlots {
  readonly maxSlots: number;
  readonly maxLength: number;
  readonly headDim: number;
  readonly #keys: Float32Array[];
  readonly #values: Float32Array[];
  readonly #scratch: Float32Array;
  #stride = KV_BLOCK;

  constructor(options: { numLayers: number; maxSlots: number; maxLength: number; headDim: number }) {
    this.maxSlots = options.maxSlots;
    this.maxLength = Math.ceil(options.maxLength / KV_BLOCK) * KV_BLOCK;
    this.headDim = options.headDim;
    const size = this.maxSlots * this.maxLength * this.headDim;
    this.#keys = Array.from({ length: options.numLayers }, () => new Float32Array(size));
    this.#values = Array.from({ length: options.numLayers }, () => new Float32Array(size));
    this.#scratch = new Float32Array(this.maxLength * this.headDim);
  }

  /** Tokens each slot has room for now; a multiple of KV_BLOCK. */
  get stride(): number {
    return this.#stride;
  }

  /** Views of `numSlots` slots from `firstSlot`: [numSlots, stride, headDim] each. Stale after `reserve` grows the stride. */
  view(layer: number, firstSlot: number, numSlots: number): { keys: Float32Array; values: Float32Array } {
    const slotSize = this.#stride * this.headDim;
    const [from, to] = [firstSlot * slotSize, (firstSlot + numSlots) * slotSize];
    return { keys: at(this.#keys, layer).subarray(from, to), values: at(this.#values, layer).subarray(from, to) };
  }

  reserve(length: number, numSlots: number): void {
    assert(length <= this.maxLength, `KV length ${length} within ${this.maxLength}`);
    const stride = Math.ceil(length / KV_BLOCK) * KV_BLOCK;
    if (stride > this.#stride) this.#relay(stride, numSlots);
  }

  /** Narrows the stride once long sequences have left, so that short ones do not pay for their padding. */
  shrink(length: number, numSlots: number): void {
    const stride = Math.max(KV_BLOCK, Math.ceil(length / KV_BLOCK) * KV_BLOCK);
    if (stride < this.#stride) this.#relay(stride, numSlots);
  }

  /** Nothing to do: what comes next writes over it. */
  clear(_slot: number): void {}

  swap(a: number, b: number, length: number): void {
    if (a === b) return;
    const [size, count] = [this.#stride * this.headDim, length * this.headDim];
    for (const tensors of [this.#keys, this.#values]) {
      for (const tensor of tensors) {
        this.#scratch.set(tensor.subarray(a * size, a * size + count));
        tensor.copyWithin(a * size, b * size, b * size + count);
        tensor.set(this.#scratch.subarray(0, count), b * size);
      }
    }
  }

  #relay(stride: number, numSlots: number): void {
    const [from, to] = [this.#stride * this.headDim, stride * this.headDim];
    const count = Math.min(from, to);
    for (const tensors of [this.#keys, this.#values]) {
      for (const tensor of tensors) {
        // Growing moves slots up, so the last goes first; shrinking the other way round.
        if (to > from) for (let s = numSlots - 1; s > 0; s--) tensor.copyWithin(s * to, s * from, s * from + count);
        else for (let s = 1; s < numSlots; s++) tensor.copyWithin(s * to, s * from, s * from + count);
      }
    }
    this.#stride = stride;
  }
}

function at(tensors: readonly Float32Array[], layer: number): Float32Array {
  const tensor = tensors[layer];
  assert(tensor !== undefined, `layer ${layer} exists`);
  return tensor;
}
