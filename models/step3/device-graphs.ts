import { writeFileSync } from "node:fs";
import path from "node:path";
import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import { WeightsFile } from "../graph/weights-file.ts";
import type { ShardSpec } from "../stages.ts";
import { type AttentionWeights, head, writeMix, writeProjection } from "./attention-graphs.ts";
import { slice } from "./ffn-graphs.ts";
import { swiGlu } from "./swi-glu.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";

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
export const DEVICE_GRAPHS_VERSION = 2;

export const deviceLayerGraph = (layer: number) => `layer-${layer}-device.onnx`;
export const DEVICE_HEAD_GRAPH = "head.onnx";

export function writeDeviceAttentionGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  progress: (text: string) => void,
): void {
  withWeightsFile(dir, (file) => {
    for (const [layer, kind] of config.layerKinds.entries()) {
      progress(`writing attention graphs, layer ${layer + 1} of ${config.numLayers}`);
      const dense = kind === "dense" ? weights.dense(layer) : undefined;
      writeFileSync(path.join(dir, deviceLayerGraph(layer)), attention(config, weights.attention(layer), dense, file));
    }
    writeFileSync(path.join(dir, DEVICE_HEAD_GRAPH), head(config, weights.head(), file));
  });
}

export function writeDeviceFfnGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  spec: ShardSpec,
  progress: (text: string) => void,
): void {
  withWeightsFile(dir, (file) => {
    for (const [layer, kind] of config.layerKinds.entries()) {
      if (kind === "dense") continue;
      progress(`writing expert graphs, layer ${layer + 1} of ${config.numLayers}`);
      writeFileSync(path.join(dir, deviceLayerGraph(layer)), experts(config, weights, layer, spec, file));
    }
  });
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
  const cut = (input: string, widths: readonly number[], outputs: readonly string[]) =>
    sliceColumns(graph, input, widths, outputs);
  const [query, keyValue] = writeProjection(graph, config, weights, file, cut);
  const attributes = { num_heads: numHeads, head_dim: headDim };
  graph.own("RopeAppendF32", [query, keyValue, "cos_sin", "pool", "page_table", "lengths"], ["rotated"], attributes);
  graph.own("MfaDecodeF32", ["rotated", "pool", "page_table", "lengths"], ["concatenated"], attributes);
  writeOutputs(graph, config, writeMix(graph, config, weights, dense, file));
  return graph.finish();
}

/**
 * Each value apart: ONNX Runtime's CUDA kernels for `Concat`, and for `Split` into unlike parts, fetch tables from memory that is
 * allocated for the run, which a CUDA graph must not.
 */
export function writeOutputs(
  graph: OnnxGraph,
  { hiddenSize, numExperts }: ModelConfig,
  names: readonly string[],
): void {
  for (const name of names)
    graph.output(name, "f32", [DEVICE_ROWS, name === "router_logits" ? numExperts : hiddenSize]);
}

function sliceColumns(graph: OnnxGraph, input: string, widths: readonly number[], outputs: readonly string[]): void {
  graph.integers(`${input}_axis`, [1]);
  let from = 0;
  for (const [i, width] of widths.entries()) {
    const [start, end] = [`${input}_start_${i}`, `${input}_end_${i}`];
    graph.integers(start, [from]);
    graph.integers(end, [from + width]);
    graph.node("Slice", [input, start, end, `${input}_axis`], [outputs[i] as string]);
    from += width;
  }
}

/** The shared expert's slice and every local expert on all rows; `shares` is 0 where a row has not chosen one. */
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
  const names = spec.experts.map((expert) => `share_${expert}`);
  sliceColumns(
    graph,
    "shares",
    names.map(() => 1),
    names,
  );
  let sum = swiGlu(graph, "hidden", slice(weights.shared(layer), spec), hiddenSize, file, "shared");
  for (const [i, expert] of spec.experts.entries()) {
    const output = swiGlu(graph, "hidden", weights.expert(layer, expert), hiddenSize, file, `expert_${expert}`);
    graph.node("Mul", [output, names[i] as string], [`weighted_${expert}`]);
    sum = graph.node("Add", [sum, `weighted_${expert}`], [i === names.length - 1 ? "output" : `sum_${expert}`]);
  }
  graph.output("output", "f32", [DEVICE_ROWS, hiddenSize]);
  return graph.finish();
}

function withWeightsFile(dir: string, use: (file: WeightsFile) => void): void {
  const file = new WeightsFile(dir);
  try {
    use(file);
  } finally {
    file.close();
  }
}
