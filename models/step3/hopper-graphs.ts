import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import type { WeightsFile } from "../graph/weights-file.ts";
import type { ShardSpec } from "../stages.ts";
import { DEVICE_ROWS, writeOutputs } from "./device-graphs.ts";
import { slice } from "./ffn-graphs.ts";
import { quantiseWeights, toBf16 } from "./quantise-weights.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";
import { deviceLayerGraph, writeDeviceAttention, writeMoeGraphs } from "./write-graphs.ts";

/** Activations are quantised in groups of so many values, weights in squares. */
const GROUP = 128;
/** What the kernels for Hopper do. */
const [NUM_HEADS, HEAD_DIM] = [64, 256];

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const HOPPER_GRAPHS_VERSION = 1;

/** Whether a model's dimensions are those of the FP8 kernels. */
export function fitsHopper(config: ModelConfig): boolean {
  const { numHeads, headDim, hiddenSize, shareQDim, expertDim, sharedExpertDim, denseDim } = config;
  const sizes = [hiddenSize, shareQDim, expertDim, denseDim];
  if (numHeads !== NUM_HEADS || headDim !== HEAD_DIM || sharedExpertDim > expertDim) return false;
  return sizes.every((size) => size % GROUP === 0);
}

export function writeHopperAttentionGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing attention graphs in FP8, ${text}`);
  writeDeviceAttention({ dir, config, progress: told }, weights, (layer, dense, file) =>
    attention(config, weights.attention(layer), dense, file),
  );
}

export function writeHopperFfnGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  spec: ShardSpec,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing expert graphs in FP8, ${text}`);
  writeMoeGraphs({ dir, config, progress: told }, deviceLayerGraph, (layer, file) =>
    experts(config, weights, layer, spec, file),
  );
}

/** Parts of a dense FFN, each as wide as the kernel's experts may be; a token visits all of them. */
export function denseSlices({ denseDim, expertDim }: Pick<ModelConfig, "denseDim" | "expertDim">): number {
  for (let count = Math.max(1, Math.ceil(denseDim / expertDim)); ; count++) {
    if (denseDim % (count * GROUP) === 0) return count;
  }
}

type AttentionWeights = ReturnType<Step3Weights["attention"]>;

/** As the device's f32 graph: the same inputs, besides workspaces, and the same output. */
function attention(
  config: ModelConfig,
  weights: AttentionWeights,
  dense: FfnWeights | undefined,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize, shareQDim, numHeads, headDim, contextLength, numExperts, rmsNormEps } = config;
  const graph = new OnnxGraph("hopper_attention");
  graph.input("hidden", "f32", [DEVICE_ROWS, hiddenSize]);
  graph.input("cos_sin", "f32", [contextLength, headDim / 2, 2]);
  graph.input("pool", "u8", ["pages", "page_bytes"]);
  graph.input("page_table", "i32", [DEVICE_ROWS, "max_pages"]);
  graph.input("lengths", "i32", [DEVICE_ROWS]);
  for (const name of ["gemm_workspace", "mfa_workspace", "expert_workspace"])
    graph.input(name, "u8", [`${name}_bytes`]);
  const epsilon = { float: rmsNormEps };
  const norm = (name: string, values: Float32Array) =>
    graph.weight(name, "bf16", [values.length], file.appendBytes(bytesOf(toBf16(values))));
  const heads = numHeads * headDim;

  graph.node("Cast", ["hidden"], ["before"], { to: BF16 });
  const first = ["before", norm("input_norm", weights.inputNorm)];
  graph.own("AddRmsNormQuantise", first, ["sum", "x_data", "x_scales"], { epsilon });
  const fused = new Float32Array((shareQDim + 2 * headDim) * hiddenSize);
  fused.set(weights.qDown, 0);
  fused.set(weights.key, shareQDim * hiddenSize);
  fused.set(weights.value, (shareQDim + headDim) * hiddenSize);
  gemm(graph, "x", matrix(graph, "down", fused, hiddenSize, file), "low");
  const second = ["low", norm("inter_norm", weights.interNorm)];
  graph.own("RmsNormQuantise", second, ["low_data", "low_scales"], { epsilon });
  gemm(graph, "low", matrix(graph, "up", weights.qUp, shareQDim, file), "query");
  const kind = { num_heads: numHeads, head_dim: headDim, kv_type: "e4m3" };
  const cache = ["pool", "page_table", "lengths"];
  graph.own("RopeAppend", ["query", "low", "cos_sin", ...cache], ["rotated"], {
    ...kind,
    key_offset: shareQDim,
    value_offset: shareQDim + headDim,
  });
  graph.own("MfaDecode", ["rotated", ...cache, "mfa_workspace"], ["heads_data", "heads_scales"], kind);
  gemm(graph, "heads", matrix(graph, "output", weights.output, heads, file), "attended_sum", "sum");
  const third = ["attended_sum", norm("ffn_norm", weights.ffnNorm)];
  graph.own("AddRmsNormQuantise", third, ["after", "ffn_data", "ffn_scales", "normed"], { epsilon });
  graph.node("Cast", ["after"], ["residual"], { to: F32 });
  if (dense !== undefined) {
    const output = denseFfn(graph, config, dense, file);
    writeOutputs(graph, config, [graph.node("Add", ["residual", output], ["next_hidden"])]);
    return graph.finish();
  }
  const blocks = ["residual", graph.node("Cast", ["normed"], ["ffn_input"], { to: F32 })];
  if (weights.router !== undefined) {
    const router = file.appendTransposed(weights.router, hiddenSize);
    graph.weight("router", "f32", [hiddenSize, numExperts], router);
    blocks.push(graph.node("MatMul", ["ffn_input", "router"], ["router_logits"]));
  }
  writeOutputs(graph, config, blocks);
  return graph.finish();
}

/** down(silu(gate x) up x) is a sum over slices of the middle, each of which is like an expert that every token has with weight 1. */
function denseFfn(graph: OnnxGraph, config: ModelConfig, ffn: FfnWeights, file: WeightsFile): string {
  const numSlices = denseSlices(config);
  const slices = Array.from({ length: numSlices }, (_, shard) =>
    slice(ffn, { shard, numShards: numSlices, experts: [] }),
  );
  const chosen = Int32Array.from({ length: DEVICE_ROWS * numSlices }, (_, i) => i % numSlices);
  const dims = [DEVICE_ROWS, numSlices];
  graph.weight("slices", "i32", dims, file.appendBytes(bytesOf(chosen)));
  graph.weight("ones", "f32", dims, file.append(new Float32Array(chosen.length).fill(1)));
  const places = Int32Array.from(slices.keys());
  const inputs = ["ffn_data", "ffn_scales", "slices", "ones", localOf(graph, places, file)];
  const weights = expertWeights(graph, slices, ffn.dim / numSlices, config.hiddenSize, file);
  graph.own("ExpertFfn", [...inputs, ...weights, "expert_workspace"], ["dense_output"]);
  return graph.node("Cast", ["dense_output"], ["dense_f32"], { to: F32 });
}

/** `hidden` is quantised here as the attention side's norm would, so that the wire may carry anything. */
function experts(
  config: ModelConfig,
  weights: Step3Weights,
  layer: number,
  spec: ShardSpec,
  file: WeightsFile,
): Uint8Array {
  const { hiddenSize, expertDim, numExperts, topK, rmsNormEps } = config;
  const graph = new OnnxGraph("hopper_experts");
  graph.input("hidden", "f32", [DEVICE_ROWS, hiddenSize]);
  graph.input("expert_ids", "i32", [DEVICE_ROWS, topK]);
  graph.input("expert_weights", "f32", [DEVICE_ROWS, topK]);
  graph.input("expert_workspace", "u8", ["expert_workspace_bytes"]);
  const [data, scales] = quantised(graph, "hidden", hiddenSize, rmsNormEps, file);
  // One more place than there are experts: the id of rows without any.
  const places = new Int32Array(numExperts + 1).fill(-1);
  for (const [local, expert] of spec.experts.entries()) places[expert] = local;
  const routed = spec.experts.map((expert) => weights.expert(layer, expert));
  const shared = () => padded(slice(weights.shared(layer), spec), expertDim, hiddenSize);
  const all = spec.withoutShared === true ? routed : [...routed, shared()];
  const inputs = [data, scales, "expert_ids", "expert_weights", localOf(graph, places, file)];
  const matrices = expertWeights(graph, all, expertDim, hiddenSize, file);
  const attributes = { shared_local: spec.withoutShared === true ? -1 : routed.length };
  graph.own("ExpertFfn", [...inputs, ...matrices, "expert_workspace"], ["sum"], attributes);
  graph.node("Cast", ["sum"], ["output"], { to: F32 });
  graph.output("output", "f32", [DEVICE_ROWS, hiddenSize]);
  return graph.finish();
}

/**
 * Each 128 values of a row as e4m3 with their scale: data [rows, width], scales [width / 128, rows]. The operator that quantises
 * brings each row to a root mean square of 1 before; that is taken back in the scales.
 */
function quantised(
  graph: OnnxGraph,
  input: string,
  width: number,
  epsilon: number,
  file: WeightsFile,
): readonly [data: string, scales: string] {
  const name = (part: string) => `${input}_${part}`;
  const ones = new Float32Array(width).fill(1);
  graph.weight("narrow_ones", "bf16", [width], file.appendBytes(bytesOf(toBf16(ones))));
  graph.node("Cast", [input], [name("narrow")], { to: BF16 });
  const outputs = [name("same"), name("data"), name("unit_scales")];
  graph.own("AddRmsNormQuantise", [name("narrow"), "narrow_ones"], outputs, { epsilon: { float: epsilon } });
  graph.node("Cast", [name("narrow")], [name("wide")], { to: F32 });
  graph.floats("wide_ones", ones);
  const attributes = { axis: -1, epsilon: { float: epsilon }, stash_type: 1 };
  const norm = [name("unit"), name("inverse_size")];
  graph.node("SimplifiedLayerNormalization", [name("wide"), "wide_ones"], norm, attributes);
  graph.integers("by_row", [1, DEVICE_ROWS]);
  graph.node("Reshape", [name("inverse_size"), "by_row"], [name("inverse_sizes")]);
  graph.node("Div", [name("unit_scales"), name("inverse_sizes")], [name("scales")]);
  return [name("data"), name("scales")];
}

/** Element types as `Cast` names them. */
const [F32, BF16] = [1, 16];

/** Adds a matrix [n, k]; returns its tiles' and scales' names. */
function matrix(graph: OnnxGraph, name: string, values: Float32Array, k: number, file: WeightsFile): readonly string[] {
  const n = values.length / k;
  const { tiles, scales } = quantiseWeights(values, n, k);
  graph.weight(`${name}_tiles`, "fp8-e4m3", [n / GROUP, k / GROUP, GROUP, GROUP], file.appendBytes(tiles));
  graph.weight(`${name}_tile_scales`, "f32", [n / GROUP, k / GROUP], file.append(scales));
  return [`${name}_tiles`, `${name}_tile_scales`];
}

function gemm(graph: OnnxGraph, x: string, weights: readonly string[], y: string, addend?: string): void {
  const inputs = [`${x}_data`, `${x}_scales`, ...weights, "gemm_workspace"];
  graph.own("Fp8Gemm", addend === undefined ? inputs : [...inputs, addend], [y]);
}

/** The matrices of several experts behind each other; gate's and up's rows take turns in blocks of 64. */
function expertWeights(
  graph: OnnxGraph,
  all: readonly FfnWeights[],
  inter: number,
  hiddenSize: number,
  file: WeightsFile,
): readonly string[] {
  const half = GROUP / 2;
  const gateUps = all.map(({ gate, up }) => {
    const both = new Float32Array(2 * inter * hiddenSize);
    both.set(gate, 0);
    both.set(up, inter * hiddenSize);
    const rowOf = (row: number) => Math.floor(row / GROUP) * half + (row % half) + (row % GROUP < half ? 0 : inter);
    return quantiseWeights(both, 2 * inter, hiddenSize, rowOf);
  });
  const downs = all.map(({ down }) => quantiseWeights(down, hiddenSize, inter));
  const stack = (name: string, parts: readonly { tiles: Uint8Array; scales: Float32Array }[], n: number, k: number) => {
    const dims = [all.length, n / GROUP, k / GROUP];
    graph.weight(name, "fp8-e4m3", [...dims, GROUP, GROUP], file.appendBytes(...parts.map(({ tiles }) => tiles)));
    const scales = parts.map((part) => bytesOf(part.scales));
    graph.weight(`${name}_scales`, "f32", dims, file.appendBytes(...scales));
    return [name, `${name}_scales`];
  };
  return [...stack("gate_up", gateUps, 2 * inter, hiddenSize), ...stack("down_proj", downs, hiddenSize, inter)];
}

function localOf(graph: OnnxGraph, places: Int32Array, file: WeightsFile): string {
  return graph.weight("local_of", "i32", [places.length], file.appendBytes(bytesOf(places)));
}

/** With zeros in the middle until it is as wide as the experts. */
function padded({ dim, gate, up, down }: FfnWeights, width: number, hiddenSize: number): FfnWeights {
  if (dim === width) return { dim, gate, up, down };
  const widened = (rows: Float32Array) => {
    const result = new Float32Array(width * hiddenSize);
    result.set(rows);
    return result;
  };
  const wideDown = new Float32Array(hiddenSize * width);
  for (let row = 0; row < hiddenSize; row++) wideDown.set(down.subarray(row * dim, (row + 1) * dim), row * width);
  return { dim: width, gate: widened(gate), up: widened(up), down: wideDown };
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
