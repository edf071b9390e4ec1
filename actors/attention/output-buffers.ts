/** Per micro-batch and shard the memory of what the shard has answered, grown to the largest pass: combining allocates nothing. */
export class OutputBuffers {
  readonly #numShards: number;
  /** [microBatch][shard] */
  readonly #buffers: Float32Array[][] = [];

  constructor(numShards: number) {
    this.#numShards = numShards;
  }

  /** Per shard `size` floats, whatever was in them. */
  of(microBatch: number, size: number): Float32Array[] {
    const buffers = (this.#buffers[microBatch] ??= Array.from(
      { length: this.#numShards },
      () => new Float32Array(size),
    ));
    return buffers.map((buffer, shard) => {
      if (buffer.length >= size) return buffer.subarray(0, size);
      return (buffers[shard] = new Float32Array(size));
    });
  }
}
