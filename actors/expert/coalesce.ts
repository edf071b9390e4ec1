import { assert } from "../../infra/errors.ts";

/** A batch that waits for its turn, as far as coalescing is concerned. */
export interface Waiting {
  readonly layer: number;
  readonly numTokens: number;
}

/**
 * Batches in arrival order; `take` gives the oldest and every other one of its layer, so that the layer's weights are read
 * once for all of them. Bounded: ask `isFull` first.
 */
export class Coalescer<T extends Waiting> {
  readonly #waiting: T[] = [];
  readonly #maxWaiting: number;
  readonly #maxTokens: number;

  constructor(options: { readonly maxWaiting: number; readonly maxTokens: number }) {
    this.#maxWaiting = options.maxWaiting;
    this.#maxTokens = options.maxTokens;
  }

  get size(): number {
    return this.#waiting.length;
  }

  get isFull(): boolean {
    return this.#waiting.length >= this.#maxWaiting;
  }

  push(batch: T): void {
    assert(!this.isFull, `at most ${this.#maxWaiting} batches wait`);
    this.#waiting.push(batch);
  }

  /** At least one batch unless empty; further ones of its layer while they fit into `maxTokens`. */
  take(): T[] {
    const first = this.#waiting.shift();
    if (first === undefined) return [];
    const taken = [first];
    let numTokens = first.numTokens;
    for (let i = 0; i < this.#waiting.length;) {
      const batch = this.#waiting[i] as T;
      if (batch.layer === first.layer && numTokens + batch.numTokens <= this.#maxTokens) {
        taken.push(batch);
        numTokens += batch.numTokens;
        this.#waiting.splice(i, 1);
      } else i++;
    }
    return taken;
  }
}
