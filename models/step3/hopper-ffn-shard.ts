import path from "node:path";
import { assert } from "../../infra/errors.ts";
import type { Binding } from "../../infra/native/binding.ts";
import type { NativeSession } from "../../infra/native/native-session.ts";
import type { NativeTensor } from "../../infra/native/native-tensor.ts";
import type { ModelConfig } from "../config.ts";
import type { FfnBatch, FfnShard, ShardSpec } from "../stages.ts";
import { DEVICE_ROWS } from "./device-graphs.ts";
import { type Mirror, mirror, releaseMirror } from "./device-rows.ts";
import { deviceLayerGraph } from "./write-graphs.ts";

export interface HopperFfnOptions {
  readonly config: ModelConfig;
  readonly spec: ShardSpec;
  /** Folder of `writeHopperFfnGraphs`. */
  readonly graphDir: string;
  readonly open: (graphFile: string) => NativeSession;
  /** Bytes that the experts' operator works in. */
  readonly workspace: number;
}

/** One shard's FFNs in FP8, by the grouped kernel. Its weights are read once per tile of rows, those of chosen experts alone. */
export class HopperFfnShard implements FfnShard {
  readonly spec: ShardSpec;
  readonly #config: ModelConfig;
  readonly #sessions: readonly NativeSession[];
  readonly #runs: readonly (Binding | undefined)[];
  readonly #hidden: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #weights: Mirror; // [DEVICE_ROWS, topK]
  readonly #output: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #ids: { readonly device: NativeTensor; readonly host: NativeTensor; readonly data: Int32Array };
  readonly #workspace: NativeTensor;

  constructor({ config, spec, graphDir, open, workspace }: HopperFfnOptions) {
    this.#config = config;
    this.spec = spec;
    const sessions = config.layerKinds.map((kind, layer) =>
      kind === "moe" ? open(path.join(graphDir, deviceLayerGraph(layer))) : undefined,
    );
    this.#sessions = sessions.filter((session) => session !== undefined);
    const [first] = this.#sessions;
    assert(first !== undefined, "a model with shards has layers with experts");
    const { hiddenSize, topK } = config;
    this.#hidden = mirror(first, [DEVICE_ROWS, hiddenSize]);
    this.#weights = mirror(first, [DEVICE_ROWS, topK]);
    this.#output = mirror(first, [DEVICE_ROWS, hiddenSize]);
    const host = first.allocate("i32", [DEVICE_ROWS, topK], "host");
    this.#ids = { device: first.allocate("i32", [DEVICE_ROWS, topK]), host, data: host.data as Int32Array };
    this.#workspace = first.allocate("u8", [workspace]);
    this.#workspace.fillWith(new Uint8Array(8));
    this.#runs = sessions.map((session) => session && this.#bind(session));
  }

  async forward(batch: FfnBatch, output: Float32Array): Promise<void> {
    const { layer, numTokens, hidden, expertIds, expertWeights } = batch;
    const { hiddenSize, topK, numExperts } = this.#config;
    const run = this.#runs[layer];
    assert(run !== undefined, `layer ${layer} has experts`);
    for (let first = 0; first < numTokens; first += DEVICE_ROWS) {
      const end = Math.min(numTokens, first + DEVICE_ROWS);
      this.#hidden.data.set(hidden.subarray(first * hiddenSize, end * hiddenSize));
      // What an earlier batch has left in the other rows is nobody's: they visit no expert.
      this.#ids.data.fill(numExperts).set(expertIds.subarray(first * topK, end * topK));
      this.#weights.data.set(expertWeights.subarray(first * topK, end * topK));
      run.run();
      output.set(this.#output.data.subarray(0, (end - first) * hiddenSize), first * hiddenSize);
    }
  }

  async release(): Promise<void> {
    for (const run of this.#runs) run?.release();
    for (const each of [this.#hidden, this.#weights, this.#output]) releaseMirror(each);
    for (const each of [this.#ids.device, this.#ids.host, this.#workspace, ...this.#sessions]) each.release();
  }

  #bind(session: NativeSession): Binding {
    const [hidden, weights, output, ids] = [this.#hidden, this.#weights, this.#output, this.#ids];
    return session.bind(
      {
        hidden: hidden.device,
        expert_ids: ids.device,
        expert_weights: weights.device,
        expert_workspace: this.#workspace,
      },
      { output: output.device },
      {
        runConfigs: { gpu_graph_id: "1" },
        before: [
          [hidden.host, hidden.device],
          [ids.host, ids.device],
          [weights.host, weights.device],
        ],
        after: [[output.device, output.host]],
      },
    );
  }
}
