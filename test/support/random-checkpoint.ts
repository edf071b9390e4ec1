import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

/** Dimensions of a random Step-3 model; names as in its config.json. */
export interface RandomModel {
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly moe_layers_enum: string;
  readonly vocab_size: number;
  readonly num_attention_heads: number;
  readonly head_dim: number;
  readonly share_q_dim: number;
  readonly intermediate_size: number;
  readonly moe_num_experts: number;
  readonly moe_top_k: number;
  readonly moe_intermediate_size: number;
  readonly share_expert_dim: number;
  readonly max_position_embedding: number;
}

/** Small, with every kind of layer and dimensions that are no multiple of a vector or a scale block. */
export const SMALL_MODEL: RandomModel = {
  hidden_size: 40,
  num_hidden_layers: 3,
  moe_layers_enum: "1",
  vocab_size: 67,
  num_attention_heads: 3,
  head_dim: 16,
  share_q_dim: 24,
  intermediate_size: 56,
  moe_num_experts: 5,
  moe_top_k: 3,
  moe_intermediate_size: 20,
  share_expert_dim: 28,
  max_position_embedding: 1024,
};

/** The dimensions of the bundled model. */
export const BUNDLED_DIMENSIONS: RandomModel = {
  hidden_size: 384,
  num_hidden_layers: 8,
  moe_layers_enum: "1,2,3,4,5,6",
  vocab_size: 4096,
  num_attention_heads: 12,
  head_dim: 64,
  share_q_dim: 192,
  intermediate_size: 768,
  moe_num_experts: 8,
  moe_top_k: 3,
  moe_intermediate_size: 192,
  share_expert_dim: 192,
  max_position_embedding: 1024,
};

type Storage = "F32" | "F16" | "BF16" | "F8_E4M3";

interface WriteOptions {
  readonly seed?: number;
  /** Storage of the matrices; norms and the router stay f32. */
  readonly storage?: Storage;
  /** Scale block of FP8. */
  readonly block?: readonly [number, number];
  /** Write two files and an index instead of one. */
  readonly sharded?: boolean;
}

/** Writes a Step-3 checkpoint of seeded random weights: config.json and safetensors. */
export function writeRandomCheckpoint(dir: string, model: RandomModel, options: WriteOptions = {}): void {
  const { seed = 1, storage = "F32", block = [128, 128], sharded = false } = options;
  mkdirSync(dir, { recursive: true });
  const config = {
    architectures: ["Step3TextForCausalLM"],
    model_type: "step3_text",
    num_attention_groups: 1,
    norm_expert_weight: false,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000,
    rope_scaling: null,
    bos_token_id: 0,
    eos_token_id: 1,
    ...model,
    ...(storage === "F8_E4M3" ? { quantization_config: { quant_method: "fp8", weight_block_size: block } } : {}),
  };
  writeFileSync(path.join(dir, "config.json"), JSON.stringify(config, undefined, 2));
  const tensors = randomTensors(model, seed).flatMap((tensor) => store(tensor, storage, block));
  if (!sharded) {
    writeFileSync(path.join(dir, "model.safetensors"), safetensors(tensors));
    return;
  }
  const middle = tensors.length >> 1;
  const files = { "model-1.safetensors": tensors.slice(0, middle), "model-2.safetensors": tensors.slice(middle) };
  const weightMap: Record<string, string> = {};
  for (const [file, part] of Object.entries(files)) {
    writeFileSync(path.join(dir, file), safetensors(part));
    for (const { name } of part) weightMap[name] = file;
  }
  writeFileSync(path.join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));
}

interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

function randomTensors(model: RandomModel, seed: number): NamedTensor[] {
  const random = xorshift(seed);
  const tensors: NamedTensor[] = [];
  const add = (name: string, shape: readonly number[], centre: number, spread: number) => {
    const values = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
    for (let i = 0; i < values.length; i++) values[i] = centre + (random() * 2 - 1) * spread;
    tensors.push({ name: `${name}.weight`, shape, values });
  };
  const norm = (name: string, size: number) => add(name, [size], 1, 0.2);
  // Spread so that every layer's output has about the size of its input.
  const matrix = (name: string, shape: readonly number[], gain = 1) =>
    add(name, shape, 0, gain * Math.sqrt(3 / (shape.at(-1) ?? 1)));
  const { hidden_size: hidden, head_dim: headDim, share_q_dim: shareQ, moe_num_experts: experts } = model;
  const queries = model.num_attention_heads * headDim;
  const moeLayers = new Set(model.moe_layers_enum.split(",").map(Number));
  add("model.embed_tokens", [model.vocab_size, hidden], 0, 1);
  for (let i = 0; i < model.num_hidden_layers; i++) {
    const layer = `model.layers.${i}`;
    norm(`${layer}.input_layernorm`, hidden);
    norm(`${layer}.post_attention_layernorm`, hidden);
    norm(`${layer}.self_attn.inter_norm`, shareQ);
    matrix(`${layer}.self_attn.q_proj`, [shareQ, hidden]);
    matrix(`${layer}.self_attn.wq`, [queries, shareQ]);
    matrix(`${layer}.self_attn.k_proj`, [headDim, hidden]);
    matrix(`${layer}.self_attn.v_proj`, [headDim, hidden]);
    matrix(`${layer}.self_attn.o_proj`, [hidden, queries]);
    const ffn = (name: string, dim: number) => {
      matrix(`${layer}.${name}.gate_proj`, [dim, hidden]);
      matrix(`${layer}.${name}.up_proj`, [dim, hidden]);
      matrix(`${layer}.${name}.down_proj`, [hidden, dim]);
    };
    if (!moeLayers.has(i)) {
      ffn("mlp", model.intermediate_size);
      continue;
    }
    matrix(`${layer}.moe.gate`, [experts, hidden], 2);
    matrix(`${layer}.moe.gate_proj`, [experts, model.moe_intermediate_size, hidden]);
    matrix(`${layer}.moe.up_proj`, [experts, model.moe_intermediate_size, hidden]);
    matrix(`${layer}.moe.down_proj`, [experts, hidden, model.moe_intermediate_size]);
    ffn("share_expert", model.share_expert_dim);
  }
  norm("model.norm", hidden);
  matrix("lm_head", [model.vocab_size, hidden], 2);
  return tensors;
}

interface StoredBytes {
  readonly name: string;
  readonly dtype: Storage;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** In f32 unless it is a matrix other than the router; FP8 brings its scales along. */
function store(
  { name, shape, values }: NamedTensor,
  storage: Storage,
  block: readonly [number, number],
): StoredBytes[] {
  if (storage === "F32" || shape.length === 1 || name.endsWith("moe.gate.weight")) {
    return [{ name, dtype: "F32", shape, bytes: bytesOf(values) }];
  }
  if (storage === "BF16") {
    const bits = new Uint32Array(values.buffer);
    return [{ name, dtype: "BF16", shape, bytes: bytesOf(Uint16Array.from(bits, (word) => word >>> 16)) }];
  }
  if (storage === "F16") return [{ name, dtype: "F16", shape, bytes: bytesOf(Uint16Array.from(values, halfBits)) }];
  const [rows = 1, columns = 1] = shape.slice(-2);
  const [scaleRows, scaleColumns] = [Math.ceil(rows / block[0]), Math.ceil(columns / block[1])];
  const stacked = values.length / (rows * columns);
  const scales = new Float32Array(stacked * scaleRows * scaleColumns);
  const bytes = new Uint8Array(values.length);
  const scaleOf = (i: number) => {
    const [matrix, row, column] = [Math.floor(i / (rows * columns)), Math.floor(i / columns) % rows, i % columns];
    return (matrix * scaleRows + Math.floor(row / block[0])) * scaleColumns + Math.floor(column / block[1]);
  };
  for (const [i, value] of values.entries()) {
    scales[scaleOf(i)] = Math.max(scales[scaleOf(i)] as number, Math.abs(value) / 448);
  }
  for (const [i, value] of values.entries()) bytes[i] = e4m3Bits(value / (scales[scaleOf(i)] as number));
  const scaleShape = [...shape.slice(0, -2), scaleRows, scaleColumns];
  return [
    { name, dtype: "F8_E4M3", shape, bytes },
    { name: `${name}_scale_inv`, dtype: "F32", shape: scaleShape, bytes: bytesOf(scales) },
  ];
}

/** Nearest e4m3, |value| at most 448. */
function e4m3Bits(value: number): number {
  const sign = value < 0 ? 128 : 0;
  const magnitude = Math.abs(value);
  const exponent = Math.max(-6, Math.floor(Math.log2(magnitude || 1e-9)));
  const steps = Math.round(magnitude / 2 ** (exponent - 3));
  // Steps of 16 mean the next power of two; below 8 the number is subnormal.
  const bits = steps < 8 ? steps : (exponent + 7) * 8 + (steps - 8);
  return sign | Math.min(bits, 126);
}

/** Nearest half, for values in its normal range. */
function halfBits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 1e-9)));
  const steps = Math.round(magnitude / 2 ** (exponent - 10));
  return sign | (steps < 1024 ? steps : (exponent + 15) * 1024 + (steps - 1024));
}

function safetensors(tensors: readonly StoredBytes[]): Uint8Array {
  let offset = 0;
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...tensors.map(({ bytes }) => bytes)]);
}

function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Uniform in [0, 1). */
function xorshift(seed: number): () => number {
  let state = seed * 2_654_435_769 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
