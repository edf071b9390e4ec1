// Makes a model folder of a few layers at Step-3's real dimensions with random weights, and the graphs of it in the cache folder, so that a
// deployment of it starts: `node slice.mjs --dir DIR [--provider cuda] [--layers 4] [--experts 8] [--hidden 7168 …]`.
// All matrices are places in one region of random numbers: a checkpoint of them would be tens of gigabytes.
import { copyFileSync, mkdirSync, writeFileSync, writeSync, openSync, closeSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..");
const { Checkpoint } = await import(path.join(root, "dist/models/checkpoint.js"));
const { WeightsFile } = await import(path.join(root, "dist/models/graph/weights-file.js"));
const { loadConfig, openAttentionStages, openFfnShard, shardSpecs } = await import(
  path.join(root, "dist/models/load.js")
);

const { values } = parseArgs({
  options: {
    dir: { type: "string" },
    provider: { type: "string", default: "cuda" },
    layers: { type: "string", default: "4" },
    experts: { type: "string", default: "8" },
    /** "none" makes the folder alone; then attention, experts-1 and experts-2 (the number of shards) may be made side by side. */
    part: { type: "string" },
    /** Divides every dimension, for a try where there is no GPU. */
    divide: { type: "string", default: "1" },
  },
});
const [numLayers, numExperts, divide] = [values.layers, values.experts, values.divide].map(Number);
const dim = (size) => Math.max(8, Math.round(size / divide));
const dir = path.resolve(values.dir ?? "slice");
const tiny = path.join(root, "models/step3-tiny");
mkdirSync(dir, { recursive: true });
for (const name of ["tokenizer.json", "tokenizer_config.json"])
  copyFileSync(path.join(tiny, name), path.join(dir, name));
const config = {
  architectures: ["Step3TextForCausalLM"],
  model_type: "step3_text",
  hidden_size: dim(7168),
  num_hidden_layers: numLayers,
  // As in Step-3 the first is dense.
  moe_layers_enum: Array.from({ length: numLayers - 1 }, (_, i) => i + 1).join(","),
  num_attention_heads: 64,
  num_attention_groups: 1,
  head_dim: dim(256),
  share_q_dim: dim(2048),
  intermediate_size: dim(18432),
  moe_num_experts: numExperts,
  moe_top_k: 3,
  moe_intermediate_size: dim(5120),
  share_expert_dim: dim(5120),
  // The bundled model's tokenizer: a vocabulary of 128,815 would need texts of its own.
  vocab_size: 4096,
  max_position_embedding: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  bos_token_id: 0,
  eos_token_id: 1,
  norm_expert_weight: false,
};
const makesFolder = values.part === undefined || values.part === "none";
if (makesFolder) writeFileSync(path.join(dir, "config.json"), JSON.stringify(config, undefined, 2));

const largest = config.hidden_size * Math.max(64 * config.head_dim, config.intermediate_size, config.vocab_size);
const region = new Float32Array(largest + 2 ** 16);
// Rows of a matrix of 7168 columns keep the size of what comes in.
for (let i = 0, state = 1; i < region.length; i++) {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  region[i] = (state / 2 ** 31) * 0.02 * Math.sqrt(divide);
}
const embedding = region.subarray(0, config.vocab_size * config.hidden_size);
if (makesFolder)
  writeSafetensors(path.join(dir, "model.safetensors"), "model.embed_tokens.weight", embedding, [
    config.vocab_size,
    config.hidden_size,
  ]);

let numMatrices = 0;
const place = (length) => Math.min(region.length - length, (numMatrices++ % 512) * 64);
Checkpoint.prototype.read = (_name, shape, range) => {
  const [first, ...rest] = range === undefined ? shape : [range.count, ...shape.slice(1)];
  const length = rest.reduce((product, size) => product * size, first);
  const at = place(length);
  return region.subarray(at, at + length);
};
/** From here on, in bytes, an f32 matrix is not written but taken out of the region, which each file has once. */
const LARGE = 2 ** 20;
const append = WeightsFile.prototype.append;
const regions = new WeakMap();
WeightsFile.prototype.append = function take(matrix) {
  if (matrix.byteLength < LARGE) return append.call(this, matrix);
  if (!regions.has(this)) regions.set(this, append.call(this, region).offset);
  return { file: "weights.bin", offset: regions.get(this) + place(matrix.length) * 4, length: matrix.byteLength };
};
WeightsFile.prototype.appendTransposed = WeightsFile.prototype.append;

const begin = performance.now();
const loaded = await loadConfig(dir);
const options = {
  numThreads: 1,
  provider: values.provider,
  progress: (text) => text.includes("layer 1 of") && process.stderr.write(`${text}\n`),
  warn: (text) => process.stderr.write(`${text}\n`),
};
const wants = (part) => values.part === undefined || values.part === part;
if (wants("attention")) await (await openAttentionStages(dir, options)).release();
for (const numShards of [1, 2]) {
  if (!wants(`experts-${numShards}`)) continue;
  for (const spec of shardSpecs(loaded, numShards)) await (await openFfnShard(dir, spec, options)).release();
}
process.stdout.write(
  `${dir}, ${values.part ?? "all"}: made and opened once in ${((performance.now() - begin) / 1000).toFixed(1)} s\n`,
);
process.exit(0);

function writeSafetensors(file, name, data, shape) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const text = JSON.stringify({ [name]: { dtype: "F32", shape, data_offsets: [0, bytes.length] } });
  const header = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const descriptor = openSync(file, "w");
  for (const part of [length, header, bytes]) writeSync(descriptor, part);
  closeSync(descriptor);
}
