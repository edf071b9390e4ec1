import path from "node:path";
import { assert } from "../../infra/errors.ts";
import type { OpenSession, Session } from "../../infra/session.ts";
import type { ModelConfig } from "../config.ts";
import type { FfnBatch, FfnShard, ShardSpec } from "../stages.ts";
import { ffnGraph } from "./ffn-graphs.ts";

export interface Step3FfnOptions {
  readonly config: ModelConfig;
  readonly spec: ShardSpec;
  /** Folder of `writeFfnGraphs`. */
  readonly graphDir: string;
  readonly openSession: OpenSession;
  readonly numThreads: number;
}

/**
 * One shard's FFNs. Rows are sorted by expert here, each expert computes its own, and the weighted sum is taken here too: in
 * ONNX both would be chains of small nodes.
 */
export class Step3FfnShard implements FfnShard {
  readonly spec: ShardSpec;
  readonly #config: ModelConfig;
  /** None for dense layers. */
  readonly #layers: readonly (Session | undefined)[];
  /** Expert id to its place among the local ones; -1 for those of other shards. */
  readonly #localOf: Int32Array;
  /** 1 if the shared expert's rows come before those of the local experts, else 0. */
  readonly #numShared: 0 | 1;
  /** Rows of the shared expert, if it is here, then of each local expert. */
  readonly #counts: BigInt64Array;
  /** Next free row of each local expert while rows are being sorted. */
  readonly #next: Int32Array;
  #rows = new Float32Array(0);
  #results = new Float32Array(0);
  /** Of each sorted row: its token and its weight. */
  #tokens = new Int32Array(0);
  #weights = new Float32Array(0);

  constructor({ config, spec, graphDir, openSession, numThreads }: Step3FfnOptions) {
    this.#config = config;
    this.spec = spec;
    this.#layers = config.layerKinds.map((kind, layer) =>
      kind === "moe" ? openSession(path.join(graphDir, ffnGraph(layer)), { numThreads }) : undefined,
    );
    this.#localOf = new Int32Array(config.numExperts).fill(-1);
    for (const [local, expert] of spec.experts.entries()) this.#localOf[expert] = local;
    this.#numShared = spec.withoutShared === true ? 0 : 1;
    this.#counts = new BigInt64Array(this.#numShared + spec.experts.length);
    this.#next = new Int32Array(spec.experts.length);
  }

  async forward(batch: FfnBatch, output: Float32Array): Promise<void> {
    const { layer, numTokens } = batch;
    const { hiddenSize } = this.#config;
    const session = this.#layers[layer];
    assert(session !== undefined, `layer ${layer} has experts`);
    const numRows = this.#sort(batch);
    if (numRows === 0) {
      output.fill(0, 0, numTokens * hiddenSize);
      return;
    }
    const size = numRows * hiddenSize;
    const dims = [numRows, hiddenSize];
    const results = this.#results.subarray(0, size);
    session.run(
      {
        rows: session.tensor(this.#rows.subarray(0, size), dims),
        counts: session.tensor(this.#counts, [this.#counts.length]),
      },
      { output: session.tensor(results, dims) },
    );
    this.#sum(numTokens, numRows, results, output);
  }

  async release(): Promise<void> {
    for (const session of this.#layers) session?.release();
  }

  /** Fills `rows`: all tokens for the shared expert, if it is here, then each local expert's. Returns how many there are. */
  #sort({ numTokens, hidden, expertIds, expertWeights }: FfnBatch): number {
    const { hiddenSize, topK } = this.#config;
    const [localOf, next] = [this.#localOf, this.#next];
    const numShared = this.#numShared * numTokens;
    this.#reserve(numShared + numTokens * topK);
    next.fill(0);
    for (let i = 0; i < expertIds.length; i++) {
      const local = localOf[expertIds[i] as number] ?? -1;
      if (local >= 0) next[local] = (next[local] as number) + 1;
    }
    this.#counts[0] = BigInt(numShared);
    let row = numShared;
    for (let local = 0; local < next.length; local++) {
      const count = next[local] as number;
      this.#counts[this.#numShared + local] = BigInt(count);
      next[local] = row;
      row += count;
    }
    this.#rows.set(hidden.subarray(0, numShared * hiddenSize));
    for (let i = 0; i < expertIds.length; i++) {
      const local = localOf[expertIds[i] as number] ?? -1;
      if (local < 0) continue;
      const at = next[local] as number;
      next[local] = at + 1;
      const token = Math.floor(i / topK);
      this.#tokens[at] = token;
      this.#weights[at] = expertWeights[i] as number;
      this.#rows.set(hidden.subarray(token * hiddenSize, (token + 1) * hiddenSize), at * hiddenSize);
    }
    return row;
  }

  /** output = shared + Σ weight × expert, experts ascending: the rows are sorted so. */
  #sum(numTokens: number, numRows: number, results: Float32Array, output: Float32Array): void {
    const { hiddenSize } = this.#config;
    const numShared = this.#numShared * numTokens;
    if (numShared > 0) output.set(results.subarray(0, numShared * hiddenSize));
    else output.fill(0, 0, numTokens * hiddenSize);
    for (let row = numShared; row < numRows; row++) {
      const weight = this.#weights[row] as number;
      let to = (this.#tokens[row] as number) * hiddenSize;
      for (let from = row * hiddenSize, end = from + hiddenSize; from < end; from++, to++) {
        output[to] = (output[to] as number) + weight * (results[from] as number);
      }
    }
  }

  #reserve(numRows: number): void {
    const size = numRows * this.#config.hiddenSize;
    if (this.#rows.length >= size) return;
    this.#rows = new Float32Array(size);
    this.#results = new Float32Array(size);
    this.#tokens = new Int32Array(numRows);
    this.#weights = new Float32Array(numRows);
  }
}
