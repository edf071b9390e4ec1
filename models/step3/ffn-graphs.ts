import { writeFileSync } from "node:fs";
import path from "node:path";
import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import { WeightsFile } from "../graph/weights-file.ts";
import type { ShardSpec } from "../stages.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const FFN_GRAPHS_VERSION = 1;

export const ffnGraph = (layer: number) => `layer-${layer}-ffn.onnx`;

/** Writes the graphs of one shard's FFNs into `dir`. */
export function writeFfnGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  spec: ShardSpec,
  progress: (text: string) => void,
): void {
  const file = new WeightsFile(dir);
  try {
    for (const [layer, kind] of config.layerKinds.entries()) {
      progress(`writing expert graphs, layer ${layer + 1} of ${config.numLayers}`);
      const graph =
        kind === "moe" ? moe(config, weights, layer, spec, file) : dense(config, weights, layer, spec, file);
      writeFileSync(path.join(dir, ffnGraph(layer)), graph);
    }
  } finally {
    file.close();
  }
}

/**
 * The shared expert's slice and each local expert on its own rows: `rows` holds first every token for the shared expert, then
 * the rows of each expert in turn, `counts` says how many each has. An expert without rows costs next to nothing.
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
  graph.input("counts", "i64", [1 + spec.experts.length]);
  const names = ["shared", ...spec.experts.map((expert) => `expert_${expert}`)];
  graph.node("Split", ["rows", "counts"], names, { axis: 0 });
  const outputs = names.map((name, i) => {
    const expert = spec.experts[i - 1];
    const ffn = expert === undefined ? slice(weights.shared(layer), spec) : weights.expert(layer, expert);
    return swiGlu(graph, name, ffn, hiddenSize, file);
  });
  graph.node("Concat", outputs, ["output"], { axis: 0 });
  graph.output("output", "f32", ["rows", hiddenSize]);
  return graph.finish();
}

function dense(
  config: ModelConfig,
  weights: Step3Weights,
  layer: number,
  spec: ShardSpec,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize } = config;
  const graph = new OnnxGraph("dense");
  graph.input("rows", "f32", ["rows", hiddenSize]);
  const output = swiGlu(graph, "rows", slice(weights.dense(layer), spec), hiddenSize, file);
  graph.output(output, "f32", ["rows", hiddenSize]);
  return graph.finish();
}

/** down( SiLU(gate x) ⊙ up x ); returns the output's name, `<input>_output`. */
function swiGlu(graph: OnnxGraph, input: string, ffn: FfnWeights, hiddenSize: number, file: WeightsFile): string {
  const { dim } = ffn;
  const name = (part: string) => `${input}_${part}`;
  // Gate and up stay two matrices: one of both would need its halves copied apart.
  graph.weight(name("gate"), "f32", [hiddenSize, dim], file.appendTransposed(ffn.gate, hiddenSize));
  graph.weight(name("up"), "f32", [hiddenSize, dim], file.appendTransposed(ffn.up, hiddenSize));
  graph.weight(name("down"), "f32", [dim, hiddenSize], file.appendTransposed(ffn.down, dim));
  graph.node("MatMul", [input, name("gate")], [name("gated")]);
  graph.node("MatMul", [input, name("up")], [name("raised")]);
  // QuickGelu with alpha 1 is SiLU in one node.
  graph.contrib("QuickGelu", [name("gated")], [name("activated")], { alpha: { float: 1 } });
  graph.node("Mul", [name("activated"), name("raised")], [name("product")]);
  return graph.node("MatMul", [name("product"), name("down")], [name("output")]);
}

/** The columns of a shared or dense FFN that belong to one shard; the shards' outputs add up to the whole. */
function slice(ffn: FfnWeights, { shard, numShards }: ShardSpec): FfnWeights {
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
