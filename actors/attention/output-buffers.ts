/** Per micro-batch the memory of what is to be combined, grown to the largest pass: combining allocates nothing. */
export class OutputBuffers {
  readonly #numOutputs: number;
  /** [microBatch][output] */
  readonly #buffers: Float32Array[][] = [];

  constructor(numOutputs: number) {
    this.#numOutputs = numOutputs;
  }

  /** Per output `size` floats, whatever was in them. */
  of(microBatch: number, size: number): Float32Array[] {
    const buffers = (this.#buffers[microBatch] ??= Array.from(
      { length: this.#numOutputs },
      () => new Float32Array(size),
    ));
    return buffers.map((buffer, output) => {
      if (buffer.length >= size) return buffer.subarray(0, size);
      return (buffers[output] = new Float32Array(size));
    });
  }
}
