import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../infra/errors.ts";
import { checkpointFiles } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import type { ModelFamily, ModelFiles, OpenOptions } from "./family.ts";
import type { AttentionStages, FfnShard, ShardSpec, SharedExperts } from "./stages.ts";
import { step3Family } from "./step3/family.ts";

const FAMILIES: readonly ModelFamily[] = [step3Family];

/** Reads and checks a model's config.json. RallyError `bad-model` or `unsupported-model`. */
export async function loadConfig(modelDir: string): Promise<ModelConfig> {
  const { family, files } = open(modelDir);
  return family.parse(files);
}

/** Loads what an attention actor computes, making its graphs first if the cache has none of this very model. */
export async function openAttentionStages(modelDir: string, options: OpenOptions): Promise<AttentionStages> {
  const { family, files } = open(modelDir);
  return family.openAttentionStages(files, await hashModel(modelDir), options);
}

/** Loads what one shard's expert actors compute, making its graphs first if the cache has none of this very model. */
export async function openFfnShard(modelDir: string, spec: ShardSpec, options: OpenOptions): Promise<FfnShard> {
  const { family, files } = open(modelDir);
  return family.openFfnShard(files, await hashModel(modelDir), spec, options);
}

/** Loads the shared experts, for an attention actor to compute; makes their graphs first if the cache has none of this very model. */
export async function openSharedExperts(modelDir: string, options: OpenOptions): Promise<SharedExperts> {
  const { family, files } = open(modelDir);
  return family.openSharedExperts(files, await hashModel(modelDir), options);
}

/** Cuts a model's experts into `numShards` runs of nearly equal length. */
export function shardSpecs({ numExperts }: Pick<ModelConfig, "numExperts">, numShards: number): ShardSpec[] {
  if (!Number.isInteger(numShards) || numShards < 1 || numShards > numExperts) {
    throw new RallyError("bad-settings", `shards must be between 1 and ${numExperts}, found ${numShards}`, {
      field: "numShards",
      found: numShards,
      limit: numExperts,
    });
  }
  return Array.from({ length: numShards }, (_, shard) => {
    const [from, to] = [shard, shard + 1].map((i) => Math.floor((i * numExperts) / numShards)) as [number, number];
    return { shard, numShards, experts: Array.from({ length: to - from }, (__, i) => from + i) };
  });
}

/** Files up to this size are hashed whole, larger ones by their size and a sample: reading terabytes to start helps nobody. */
const WHOLE_FILE_BYTES = 1 << 30;
const SAMPLE_BYTES = 1 << 20;
const NUM_SAMPLES = 256;

/** Names a model by its content: config.json and the weights. */
export async function hashModel(modelDir: string): Promise<string> {
  const hash = createHash("sha256");
  hash.update(readConfigFile(modelDir));
  for (const name of checkpointFiles(modelDir)) hashFile(hash, path.join(modelDir, name));
  return hash.digest("hex");
}

function hashFile(hash: Hash, file: string): void {
  let descriptor: number;
  try {
    descriptor = openSync(file, "r");
  } catch (cause) {
    throw new RallyError("bad-model", `cannot open ${file}`, { file }, { cause });
  }
  try {
    const { size } = fstatSync(descriptor);
    hash.update(`${path.basename(file)}:${size};`);
    const buffer = Buffer.allocUnsafe(SAMPLE_BYTES);
    // Samples are spread evenly and include both ends; the beginning holds the header.
    const step = size <= WHOLE_FILE_BYTES ? SAMPLE_BYTES : Math.floor((size - SAMPLE_BYTES) / (NUM_SAMPLES - 1));
    for (let position = 0; position < size; position += step) {
      hash.update(buffer.subarray(0, readSync(descriptor, buffer, 0, SAMPLE_BYTES, position)));
    }
  } finally {
    closeSync(descriptor);
  }
}

function open(modelDir: string): { readonly family: ModelFamily; readonly files: ModelFiles } {
  const configFile = path.join(modelDir, "config.json");
  let json: unknown;
  try {
    json = JSON.parse(readConfigFile(modelDir));
  } catch (cause) {
    if (cause instanceof RallyError) throw cause;
    throw new RallyError("bad-model", `${configFile} is not JSON`, { file: configFile }, { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new RallyError("bad-model", `${configFile} is not a JSON object`, { file: configFile });
  }
  const files = { modelDir, configFile, json: json as ModelFiles["json"] };
  const family = FAMILIES.find((candidate) => candidate.matches(files.json));
  if (family === undefined) {
    const found = JSON.stringify(files.json["architectures"] ?? files.json["model_type"] ?? "nothing").slice(0, 200);
    const expected = FAMILIES.map(({ name }) => name).join(", ");
    throw new RallyError(
      "unsupported-model",
      `${configFile}: architecture ${found} is not supported; families here: ${expected}`,
      { file: configFile, field: "architectures", found, expected },
    );
  }
  return { family, files };
}

function readConfigFile(modelDir: string): string {
  const file = path.join(modelDir, "config.json");
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new RallyError("bad-model", `cannot read ${file}`, { file }, { cause });
  }
}
