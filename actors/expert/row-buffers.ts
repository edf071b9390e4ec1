import { assert } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { FfnBatch } from "../../models/stages.ts";

type Rows = Pick<FfnBatch, "numTokens" | "hidden" | "expertIds" | "expertWeights">;

/** Memory of the runs, grown to the largest so far: a run allocates nothing. What it gives out is valid until the next run. */
export class RowBuffers {
  readonly #hiddenSize: number;
  #hidden = new Float32Array(0);
  #expertIds = new Int32Array(0);
  #expertWeights = new Float32Array(0);
  #output = new Float32Array(0);

  constructor({ hiddenSize }: Pick<ModelConfig, "hiddenSize">) {
    this.#hiddenSize = hiddenSize;
  }

  /** The batches' rows one after the other; a single batch as it is. */
  merge(batches: readonly Rows[]): Rows {
    const [first] = batches;
    assert(first !== undefined, "there is something to merge");
    if (batches.length === 1) return first;
    let numTokens = 0;
    let numRouted = 0;
    for (const batch of batches) {
      numTokens += batch.numTokens;
      numRouted += batch.expertIds.length;
    }
    const hiddenLength = numTokens * this.#hiddenSize;
    if (this.#hidden.length < hiddenLength) this.#hidden = new Float32Array(hiddenLength);
    if (this.#expertIds.length < numRouted) {
      this.#expertIds = new Int32Array(numRouted);
      this.#expertWeights = new Float32Array(numRouted);
    }
    let [row, routed] = [0, 0];
    for (const batch of batches) {
      this.#hidden.set(batch.hidden, row * this.#hiddenSize);
      this.#expertIds.set(batch.expertIds, routed);
      this.#expertWeights.set(batch.expertWeights, routed);
      row += batch.numTokens;
      routed += batch.expertIds.length;
    }
    return {
      numTokens,
      hidden: this.#hidden.subarray(0, hiddenLength),
      expertIds: this.#expertIds.subarray(0, numRouted),
      expertWeights: this.#expertWeights.subarray(0, numRouted),
    };
  }

  /** [numTokens, hiddenSize], whatever was in it. */
  output(numTokens: number): Float32Array {
    const length = numTokens * this.#hiddenSize;
    if (this.#output.length < length) this.#output = new Float32Array(length);
    return this.#output.subarray(0, length);
  }
}
