import { writeFileSync } from "node:fs";
import path from "node:path";
import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import { type WeightsFile, withWeightsFile } from "../graph/weights-file.ts";
import { swiGlu } from "./swi-glu.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const ATTENTION_GRAPHS_VERSION = 4;

export const projectGraph = (layer: number) => `layer-${layer}-project.onnx`;
export const attendGraph = (layer: number) => `layer-${layer}-attend.onnx`;
export const CORE_GRAPH = "core.onnx";
export const HEAD_GRAPH = "head.onnx";

/** Writes the graphs of everything an attention actor computes into `dir`. */
export function writeAttentionGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  progress: (text: string) => void,
): void {
  withWeightsFile(dir, (file) => {
    for (let layer = 0; layer < config.numLayers; layer++) {
      progress(`writing attention graphs, layer ${layer + 1} of ${config.numLayers}`);
      const layerWeights = weights.attention(layer);
      writeFileSync(path.join(dir, projectGraph(layer)), project(config, layerWeights, file));
      const dense = config.layerKinds[layer] === "dense" ? weights.dense(layer) : undefined;
      writeFileSync(path.join(dir, attendGraph(layer)), attend(config, layerWeights, dense, file));
    }
    writeFileSync(path.join(dir, CORE_GRAPH), core(config));
    writeFileSync(path.join(dir, HEAD_GRAPH), head(config, weights.head(), file));
  });
}

export type AttentionWeights = ReturnType<Step3Weights["attention"]>;

/** hidden → one block each of the new tokens' queries (before RoPE) and keys | values. */
function project(config: ModelConfig, weights: AttentionWeights, file: WeightsFile): Uint8Array {
  const { hiddenSize, shareQDim, headDim } = config;
  const graph = new OnnxGraph("project");
  graph.input("hidden", "f32", ["tokens", hiddenSize]);
  graph.rmsNorm("hidden", weights.inputNorm, config.rmsNormEps, "normed");
  // One matrix for everything that reads the normed input: [shareQDim + 2 headDim, hidden].
  const width = shareQDim + 2 * headDim;
  const fused = new Float32Array(width * hiddenSize);
  fused.set(weights.qDown, 0);
  fused.set(weights.key, shareQDim * hiddenSize);
  fused.set(weights.value, (shareQDim + headDim) * hiddenSize);
  graph.weight("down", "f32", [hiddenSize, width], file.appendTransposed(fused, hiddenSize));
  graph.node("MatMul", ["normed", "down"], ["low_key_value"]);
  graph.integers("widths", [shareQDim, 2 * headDim]);
  graph.node("Split", ["low_key_value", "widths"], ["low", "key_value"], { axis: -1 });
  graph.blocks([writeQuery(graph, config, weights, file), "key_value"], "projected");
  return graph.finish();
}

/** From `low` [tokens, shareQDim] to `query` [tokens, numHeads * headDim]. */
export function writeQuery(
  graph: OnnxGraph,
  { shareQDim, numHeads, headDim, rmsNormEps }: ModelConfig,
  weights: AttentionWeights,
  file: WeightsFile,
): string {
  graph.rmsNorm("low", weights.interNorm, rmsNormEps, "low_normed");
  graph.weight("up", "f32", [shareQDim, numHeads * headDim], file.appendTransposed(weights.qUp, shareQDim));
  return graph.node("MatMul", ["low_normed", "up"], ["query"]);
}

/**
 * Attention of the rotated query over the KV cache, output projection, residual and FFN norm; then the router, or on a dense
 * layer its FFN and the second residual, which end the layer.
 */
function attend(
  config: ModelConfig,
  weights: AttentionWeights,
  dense: FfnWeights | undefined,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize, numHeads, headDim } = config;
  const graph = new OnnxGraph("attend");
  writeCore(graph, config);
  graph.input("hidden", "f32", ["tokens", hiddenSize]);
  graph.integers("merged", [-1, numHeads * headDim]);
  graph.node("Reshape", ["heads", "merged"], ["concatenated"]);
  graph.blocks(writeMix(graph, config, weights, dense, file), "attended");
  return graph.finish();
}

/** From `concatenated` heads and `hidden` to the residual, the FFN's input and, where there is a router, its logits; or a dense layer's end. */
export function writeMix(
  graph: OnnxGraph,
  { hiddenSize, numHeads, headDim, numExperts, rmsNormEps }: ModelConfig,
  weights: AttentionWeights,
  dense: FfnWeights | undefined,
  file: WeightsFile,
): readonly string[] {
  const width = numHeads * headDim;
  graph.weight("output", "f32", [width, hiddenSize], file.appendTransposed(weights.output, width));
  graph.node("MatMul", ["concatenated", "output"], ["mixed"]);
  graph.floats("ffn_norm", weights.ffnNorm);
  graph.contrib(
    "SkipSimplifiedLayerNormalization",
    ["mixed", "hidden", "ffn_norm"],
    ["ffn_input", "", "", "residual"],
    { epsilon: { float: rmsNormEps } },
  );
  if (dense !== undefined) {
    const output = swiGlu(graph, "ffn_input", dense, hiddenSize, file);
    return [graph.node("Add", ["residual", output], ["next_hidden"])];
  }
  const blocks = ["residual", "ffn_input"];
  if (weights.router !== undefined) {
    graph.weight("router", "f32", [hiddenSize, numExperts], file.appendTransposed(weights.router, hiddenSize));
    blocks.push(graph.node("MatMul", ["ffn_input", "router"], ["router_logits"]));
  }
  return blocks;
}

/** The weightless part of `attend` alone, for one sequence at a time. */
function core(config: ModelConfig): Uint8Array {
  const graph = new OnnxGraph("core");
  writeCore(graph, config);
  graph.output("heads", "f32", ["sequences", "rows", config.headDim]);
  return graph.finish();
}

/**
 * softmax(query keysᵀ / √headDim + mask) values. All heads share their keys and values, so those of one sequence are rows of
 * one matrix: rows = chunk × numHeads. The mask has one row per token: [sequences * chunk, 1, stride].
 */
function writeCore(graph: OnnxGraph, { numHeads, headDim }: ModelConfig): void {
  graph.input("query", "f32", ["sequences", "rows", headDim]);
  graph.input("keys", "f32", ["sequences", "stride", headDim]);
  graph.input("values", "f32", ["sequences", "stride", headDim]);
  graph.input("mask", "f32", ["tokens", 1, "stride"]);
  // Keys times queries, not the other way round: ONNX Runtime re-packs the right-hand matrix on each run.
  graph.contrib("FusedMatMul", ["keys", "query"], ["by_key"], { transB: 1, alpha: { float: 1 / Math.sqrt(headDim) } });
  graph.node("Transpose", ["by_key"], ["scores"], { perm: [0, 2, 1] });
  graph.node("Shape", ["scores"], ["by_sequence"]);
  // [tokens, numHeads, stride]: 0 keeps the stride.
  graph.integers("by_token", [-1, numHeads, 0]);
  graph.node("Reshape", ["scores", "by_token"], ["token_scores"]);
  graph.node("Add", ["token_scores", "mask"], ["masked"]);
  graph.node("Softmax", ["masked"], ["token_shares"], { axis: -1 });
  graph.node("Reshape", ["token_shares", "by_sequence"], ["shares"]);
  graph.node("MatMul", ["shares", "values"], ["heads"]);
}

export function head(config: ModelConfig, weights: ReturnType<Step3Weights["head"]>, file: WeightsFile): Uint8Array {
  const { hiddenSize, vocabSize, rmsNormEps } = config;
  const graph = new OnnxGraph("head");
  graph.input("hidden", "f32", ["tokens", hiddenSize]);
  graph.rmsNorm("hidden", weights.norm, rmsNormEps, "normed");
  graph.weight("lm_head", "f32", [hiddenSize, vocabSize], file.appendTransposed(weights.lmHead, hiddenSize));
  graph.node("MatMul", ["normed", "lm_head"], ["logits"]);
  graph.output("logits", "f32", ["tokens", vocabSize]);
  return graph.finish();
}
