import path from "node:path";
import { assert } from "../../infra/errors.ts";
import type { Binding } from "../../infra/native/binding.ts";
import type { NativeSession } from "../../infra/native/native-session.ts";
import type { ModelConfig } from "../config.ts";
import type { FfnBatch, FfnShard, ShardSpec } from "../stages.ts";
import { DEVICE_ROWS } from "./device-graphs.ts";
import { type Mirror, mirror, releaseMirror } from "./device-rows.ts";
import { deviceLayerGraph } from "./write-graphs.ts";

export interface DeviceFfnOptions {
  readonly config: ModelConfig;
  readonly spec: ShardSpec;
  /** Folder of `writeDeviceFfnGraphs`. */
  readonly graphDir: string;
  readonly open: (graphFile: string) => NativeSession;
}

/**
 * One shard's FFNs on a device. Every local expert computes all rows of a tile and a row's shares decide what counts: what it costs is
 * to read the weights, and one shape for all keeps a row's bits the same in any company.
 */
export class DeviceFfnShard implements FfnShard {
  readonly spec: ShardSpec;
  readonly #config: ModelConfig;
  readonly #sessions: readonly NativeSession[];
  readonly #runs: readonly (Binding | undefined)[];
  readonly #localOf = new Map<number, number>();
  readonly #hidden: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #shares: Mirror; // [DEVICE_ROWS, experts of this shard]
  readonly #output: Mirror; // [DEVICE_ROWS, hiddenSize]

  constructor({ config, spec, graphDir, open }: DeviceFfnOptions) {
    this.#config = config;
    this.spec = spec;
    const sessions = config.layerKinds.map((kind, layer) =>
      kind === "moe" ? open(path.join(graphDir, deviceLayerGraph(layer))) : undefined,
    );
    this.#sessions = sessions.filter((session) => session !== undefined);
    const [first] = this.#sessions;
    assert(first !== undefined, "a model with shards has layers with experts");
    for (const [local, expert] of spec.experts.entries()) this.#localOf.set(expert, local);
    this.#hidden = mirror(first, [DEVICE_ROWS, config.hiddenSize]);
    this.#shares = mirror(first, [DEVICE_ROWS, spec.experts.length]);
    this.#output = mirror(first, [DEVICE_ROWS, config.hiddenSize]);
    const [hidden, shares, output] = [this.#hidden, this.#shares, this.#output];
    this.#runs = sessions.map((session) =>
      session?.bind(
        { hidden: hidden.device, shares: shares.device },
        { output: output.device },
        {
          runConfigs: { gpu_graph_id: "1" },
          before: [
            [hidden.host, hidden.device],
            [shares.host, shares.device],
          ],
          after: [[output.device, output.host]],
        },
      ),
    );
  }

  async forward(batch: FfnBatch, output: Float32Array): Promise<void> {
    const { layer, numTokens, hidden } = batch;
    const { hiddenSize } = this.#config;
    const run = this.#runs[layer];
    assert(run !== undefined, `layer ${layer} has experts`);
    for (let first = 0; first < numTokens; first += DEVICE_ROWS) {
      const count = Math.min(DEVICE_ROWS, numTokens - first);
      this.#hidden.data.set(hidden.subarray(first * hiddenSize, (first + count) * hiddenSize));
      this.#share(batch, first, count);
      run.run();
      output.set(this.#output.data.subarray(0, count * hiddenSize), first * hiddenSize);
    }
  }

  async release(): Promise<void> {
    for (const run of this.#runs) run?.release();
    for (const each of [this.#hidden, this.#shares, this.#output]) releaseMirror(each);
    for (const session of this.#sessions) session.release();
  }

  /** What each local expert counts for in `count` rows from `first` on. */
  #share({ expertIds, expertWeights }: FfnBatch, first: number, count: number): void {
    const { topK } = this.#config;
    const numLocal = this.spec.experts.length;
    this.#shares.data.fill(0);
    for (let i = 0; i < count * topK; i++) {
      const local = this.#localOf.get(expertIds[first * topK + i] as number);
      if (local === undefined) continue;
      const at = Math.floor(i / topK) * numLocal + local;
      // An expert that a router names twice counts twice.
      this.#shares.data[at] = (this.#shares.data[at] as number) + (expertWeights[first * topK + i] as number);
    }
  }
}
