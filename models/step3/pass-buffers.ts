/** Arrays that passes use one after the other, each grown to the largest so far: decoding then allocates nothing large. */
export class PassBuffers {
  readonly #arrays = new Map<string, Float32Array>();

  /** `length` floats under a name, with whatever an earlier pass has left there. */
  take(name: string, length: number): Float32Array {
    let array = this.#arrays.get(name);
    if (array === undefined || array.length < length) {
      // A little more, so that a growing batch or context does not allocate at each step.
      array = new Float32Array(Math.ceil(length * 1.25));
      this.#arrays.set(name, array);
    }
    return array.subarray(0, length);
  }
}
