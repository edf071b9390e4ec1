import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import type { WeightsFile } from "../graph/weights-file.ts";
import type { ShardSpec } from "../stages.ts";
import { swiGlu } from "./swi-glu.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";
import { writeMoeGraphs } from "./write-graphs.ts";

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const FFN_GRAPHS_VERSION = 2;

export const ffnGraph = (layer: number) => `layer-${layer}-ffn.onnx`;

/** Writes the graphs of one shard's FFNs into `dir`: those of MoE layers, because dense ones are an attention actor's. */
export function writeFfnGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  spec: ShardSpec,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing expert graphs, ${text}`);
  writeMoeGraphs({ dir, config, progress: told }, ffnGraph, (layer, file) => moe(config, weights, layer, spec, file));
}

/**
 * The shared expert's slice, if the shard has it, and each local expert on its own rows: `rows` holds first every token for the shared
 * expert, then the rows of each expert in turn, `counts` says how many each has. An expert without rows costs next to nothing.
 */
function moe(
  config: ModelConfig,
  weights: Step3Weights,
  layer: number,
  spec: ShardSpec,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize } = config;
  const graph = new OnnxGraph("moe");
  graph.input("rows", "f32", ["rows", hiddenSize]);
  const parts = spec.experts.map((expert) => ({ name: `expert_${expert}`, ffn: () => weights.expert(layer, expert) }));
  if (spec.withoutShared !== true) {
    parts.unshift({ name: "shared", ffn: () => slice(weights.shared(layer), spec) });
  }
  graph.input("counts", "i64", [parts.length]);
  const names = parts.map(({ name }) => name);
  graph.node("Split", ["rows", "counts"], names, { axis: 0 });
  // One part's weights at a time.
  const outputs = parts.map(({ name, ffn }) => swiGlu(graph, name, ffn(), hiddenSize, file));
  graph.node("Concat", outputs, ["output"], { axis: 0 });
  graph.output("output", "f32", ["rows", hiddenSize]);
  return graph.finish();
}

/** The columns of a shared expert that belong to one shard; the shards' outputs add up to the whole. */
export function slice(ffn: FfnWeights, { shard, numShards }: ShardSpec): FfnWeights {
  const [from, to] = [Math.floor((shard * ffn.dim) / numShards), Math.floor(((shard + 1) * ffn.dim) / numShards)];
  if (to - from === ffn.dim) return ffn;
  const hiddenSize = ffn.gate.length / ffn.dim;
  const down = new Float32Array(hiddenSize * (to - from));
  for (let row = 0; row < hiddenSize; row++) {
    down.set(ffn.down.subarray(row * ffn.dim + from, row * ffn.dim + to), row * (to - from));
  }
  return {
    dim: to - from,
    gate: ffn.gate.subarray(from * hiddenSize, to * hiddenSize),
    up: ffn.up.subarray(from * hiddenSize, to * hiddenSize),
    down,
  };
}
