/** Memory in which one payload after the other is made. */
export interface ScratchMemory {
  /** The caller's until the next call; holds anything at first. */
  take(numBytes: number): Uint8Array;
}

/** Used over and over, and grown to the largest: new memory for each would have V8 collect garbage several times a second. */
export class HeapScratch implements ScratchMemory {
  #bytes = new Uint8Array(8192);

  take(numBytes: number): Uint8Array {
    if (numBytes > this.#bytes.length) this.#bytes = new Uint8Array(2 * numBytes);
    return this.#bytes.subarray(0, numBytes);
  }
}
