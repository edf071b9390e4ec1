interface Part {
  readonly offset: number;
  readonly size: number;
}

/**
 * Which parts of a stretch of memory are in use. The lowest gap that fits is taken: so the memory of what was read last is used again
 * soon, while it is still in the processor's cache.
 */
export class SharedSpace {
  /** In order of their offsets. */
  readonly #parts: Part[] = [];
  readonly #from: number;
  readonly #to: number;
  #highest: number;

  constructor(from: number, to: number) {
    this.#from = from;
    this.#to = to;
    this.#highest = from;
  }

  /** The offset; undefined if there is no gap below the highest offset that was ever in use. */
  takeUsed(size: number): number | undefined {
    return this.#take(size, this.#highest);
  }

  /** The offset; undefined if there is no gap at all. */
  take(size: number): number | undefined {
    const offset = this.#take(size, this.#to);
    if (offset !== undefined) this.#highest = Math.max(this.#highest, offset + size);
    return offset;
  }

  give(offset: number): void {
    const at = this.#parts.findIndex((part) => part.offset === offset);
    if (at >= 0) this.#parts.splice(at, 1);
  }

  #take(size: number, to: number): number | undefined {
    let offset = this.#from;
    let at = 0;
    for (const part of this.#parts) {
      if (part.offset - offset >= size) break;
      offset = part.offset + part.size;
      at++;
    }
    if (offset + size > to) return undefined;
    this.#parts.splice(at, 0, { offset, size });
    return offset;
  }
}
