/** More than an actor has waiting as a rule; what comes beyond is left to the garbage collector. */
const MAX_KEPT = 64;

/** Memory for the rows of waiting batches, used again: allocating for each would keep the garbage collector busy. */
export class InputPool {
  readonly #free: Float32Array[] = [];

  /** `length` floats, with whatever was in them. */
  take(length: number): Float32Array {
    const index = this.#free.findIndex((array) => array.buffer.byteLength >= length * 4);
    if (index < 0) return new Float32Array(length);
    const [array] = this.#free.splice(index, 1);
    return new Float32Array((array as Float32Array).buffer, 0, length);
  }

  giveBack(array: Float32Array): void {
    if (this.#free.length < MAX_KEPT) this.#free.push(array);
  }
}
