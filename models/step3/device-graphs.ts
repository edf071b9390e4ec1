import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import type { WeightsFile } from "../graph/weights-file.ts";
import type { ShardSpec } from "../stages.ts";
import { type AttentionWeights, writeMix, writeQuery } from "./attention-graphs.ts";
import { slice } from "./ffn-graphs.ts";
import { swiGlu } from "./swi-glu.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";
import { deviceLayerGraph, writeDeviceAttention, writeMoeGraphs } from "./write-graphs.ts";

/**
 * Graphs for a device on which KV stays. Every run has this many rows, whoever they belong to: a device chooses how it sums by the
 * shape of a matrix product, so one shape gives a row the same bits in any company. It is also what a CUDA graph asks for.
 */
export const DEVICE_ROWS = 64;
/** The same for the head, which few rows need. */
export const HEAD_ROWS = 16;
/** Tokens of one KV page. */
export const PAGE_TOKENS = 64;

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const DEVICE_GRAPHS_VERSION = 3;

export function writeDeviceAttentionGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing attention graphs, ${text}`);
  writeDeviceAttention({ dir, config, progress: told }, weights, (layer, dense, file) =>
    attention(config, weights.attention(layer), dense, file),
  );
}

export function writeDeviceFfnGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  spec: ShardSpec,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing expert graphs, ${text}`);
  writeMoeGraphs({ dir, config, progress: told }, deviceLayerGraph, (layer, file) =>
    experts(config, weights, layer, spec, file),
  );
}

/** All of a layer's attention: the new keys and values enter the pool, then each row attends to its own pages. */
function attention(
  config: ModelConfig,
  weights: AttentionWeights,
  dense: FfnWeights | undefined,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize, numHeads, headDim, contextLength } = config;
  const graph = new OnnxGraph("device_attention");
  graph.input("hidden", "f32", [DEVICE_ROWS, hiddenSize]);
  graph.input("cos_sin", "f32", [contextLength, headDim / 2, 2]);
  graph.input("pool", "f32", ["pages", 2, PAGE_TOKENS, headDim]);
  graph.input("page_table", "i32", [DEVICE_ROWS, "max_pages"]);
  graph.input("lengths", "i32", [DEVICE_ROWS]);
  writeDown(graph, config, weights, file);
  const query = writeQuery(graph, config, weights, file);
  const attributes = { num_heads: numHeads, head_dim: headDim };
  graph.own("RopeAppendF32", [query, "key_value", "cos_sin", "pool", "page_table", "lengths"], ["rotated"], attributes);
  graph.own("MfaDecodeF32", ["rotated", "pool", "page_table", "lengths"], ["concatenated"], attributes);
  writeOutputs(graph, config, writeMix(graph, config, weights, dense, file));
  return graph.finish();
}

/**
 * Each value apart. ONNX Runtime's CUDA kernels for `Concat` and for `Split` into unlike parts fetch tables from memory that is
 * allocated for the run, which a CUDA graph must not: replays would read whatever lies there later. `Slice` is no way out, as it is
 * made a `Split` where its input is cut completely.
 */
export function writeOutputs(
  graph: OnnxGraph,
  { hiddenSize, numExperts }: ModelConfig,
  names: readonly string[],
): void {
  for (const name of names)
    graph.output(name, "f32", [DEVICE_ROWS, name === "router_logits" ? numExperts : hiddenSize]);
}

/** From `hidden` to `low` and `key_value`, by a matrix each. */
function writeDown(graph: OnnxGraph, config: ModelConfig, weights: AttentionWeights, file: WeightsFile): void {
  const { hiddenSize, shareQDim, headDim, rmsNormEps } = config;
  graph.rmsNorm("hidden", weights.inputNorm, rmsNormEps, "normed");
  graph.weight("down", "f32", [hiddenSize, shareQDim], file.appendTransposed(weights.qDown, hiddenSize));
  graph.node("MatMul", ["normed", "down"], ["low"]);
  const both = new Float32Array(2 * headDim * hiddenSize);
  both.set(weights.key, 0);
  both.set(weights.value, headDim * hiddenSize);
  graph.weight("down_key_value", "f32", [hiddenSize, 2 * headDim], file.appendTransposed(both, hiddenSize));
  graph.node("MatMul", ["normed", "down_key_value"], ["key_value"]);
}

/** The shared expert's slice, if the shard has it, and every local expert on all rows; `shares` is 0 where a row has not chosen one. */
function experts(
  config: ModelConfig,
  weights: Step3Weights,
  layer: number,
  spec: ShardSpec,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize } = config;
  const graph = new OnnxGraph("device_experts");
  graph.input("hidden", "f32", [DEVICE_ROWS, hiddenSize]);
  graph.input("shares", "f32", [DEVICE_ROWS, spec.experts.length]);
  const names = spec.experts.map((expert, i) => {
    // A column of `shares`, by a product with 1 there and 0 elsewhere: exact, and no cutting.
    const column = new Float32Array(spec.experts.length);
    column[i] = 1;
    graph.weight(`column_${expert}`, "f32", [column.length, 1], file.append(column));
    return graph.node("MatMul", ["shares", `column_${expert}`], [`share_${expert}`]);
  });
  const terms = spec.experts.map((expert, i) => {
    const output = swiGlu(graph, "hidden", weights.expert(layer, expert), hiddenSize, file, `expert_${expert}`);
    return graph.node("Mul", [output, names[i] as string], [`weighted_${expert}`]);
  });
  if (spec.withoutShared !== true) {
    terms.unshift(swiGlu(graph, "hidden", slice(weights.shared(layer), spec), hiddenSize, file, "shared"));
  }
  const sum = terms.reduce((left, right, i) => graph.node("Add", [left, right], [`sum_${i}`]));
  graph.node("Identity", [sum], ["output"]);
  graph.output("output", "f32", [DEVICE_ROWS, hiddenSize]);
  return graph.finish();
}
