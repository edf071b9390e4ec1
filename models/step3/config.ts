import { RallyError } from "../../infra/errors.ts";
import type { WeightBlock } from "../checkpoint.ts";
import type { ModelConfig } from "../config.ts";

/** A Step-3 model: what the actors know of it, and how its weights are stored. */
export interface Step3Model {
  readonly config: ModelConfig;
  readonly weightBlock: WeightBlock;
}

type Json = Readonly<Record<string, unknown>>;

/** The text model's part of a config.json, which the vision model nests. */
export function step3TextConfig(json: Json): Json | undefined {
  if (isStep3Text(json)) return json;
  const nested = json["text_config"];
  return isObject(nested) && (isStep3Text(nested) || json["model_type"] === "step3_vl") ? nested : undefined;
}

function isStep3Text(json: Json): boolean {
  const architectures = json["architectures"];
  if (Array.isArray(architectures) && architectures.includes("Step3TextForCausalLM")) return true;
  return json["model_type"] === "step3_text";
}

/** RallyError `bad-model` for a missing or malformed value, `unsupported-model` for one that Rally does not compute. */
export function parseStep3Config(json: Json, file: string): Step3Model {
  const text = step3TextConfig(json) ?? json;
  const read = new Reader(text, file);
  read.only("num_attention_groups", 1);
  read.only("rope_scaling", null);
  read.only("norm_expert_weight", false);
  read.only("hidden_act", "silu");
  read.only("attention_bias", false);
  read.only("tie_word_embeddings", false);
  read.only("use_moe_router_bias", false);
  read.only("moe_every_n_layer", 1);
  const numLayers = read.count("num_hidden_layers");
  const numExperts = read.count("moe_num_experts");
  const config: ModelConfig = {
    family: "step3",
    hiddenSize: read.count("hidden_size"),
    numLayers,
    vocabSize: read.count("vocab_size"),
    contextLength: read.count("max_position_embedding", "max_position_embeddings", "max_seq_len"),
    rmsNormEps: read.positive("rms_norm_eps"),
    numHeads: read.count("num_attention_heads"),
    headDim: read.count("head_dim"),
    shareQDim: read.count("share_q_dim"),
    ropeTheta: read.positive("rope_theta"),
    layerKinds: read.layerKinds("moe_layers_enum", numLayers),
    numExperts,
    topK: read.count("moe_top_k"),
    expertDim: read.count("moe_intermediate_size"),
    sharedExpertDim: read.count("share_expert_dim"),
    denseDim: read.count("intermediate_size"),
    bosTokenId: read.tokenIds("bos_token_id")[0],
    eosTokenIds: read.tokenIds("eos_token_id"),
  };
  if (config.headDim % 2 !== 0) throw read.bad("head_dim", config.headDim, "an even number");
  if (config.topK > numExperts) throw read.bad("moe_top_k", config.topK, `at most moe_num_experts, ${numExperts}`);
  return { config, weightBlock: weightBlock(json["quantization_config"] ?? text["quantization_config"], read) };
}

function weightBlock(quantization: unknown, read: Reader): WeightBlock {
  const standard: WeightBlock = [128, 128];
  if (quantization === undefined || quantization === null) return standard;
  if (!isObject(quantization)) throw read.bad("quantization_config", quantization, "an object");
  const { quant_method: method, fmt, weight_block_size: block = standard } = quantization;
  if (method !== undefined && method !== "fp8")
    throw read.unsupported("quantization_config.quant_method", method, "fp8");
  if (fmt !== undefined && fmt !== "e4m3") throw read.unsupported("quantization_config.fmt", fmt, "e4m3");
  const [rows, columns, ...rest]: unknown[] = Array.isArray(block) ? block : [];
  if (!isCount(rows) || !isCount(columns) || rest.length > 0) {
    throw read.bad("quantization_config.weight_block_size", block, "two positive integers");
  }
  return [rows, columns];
}

/** Reads values of one config.json; every complaint names the file, the key, what was found and what was expected. */
class Reader {
  readonly #json: Json;
  readonly #file: string;

  constructor(json: Json, file: string) {
    this.#json = json;
    this.#file = file;
  }

  /** A positive integer under the first of `keys` that is there. */
  count(...keys: readonly [string, ...string[]]): number {
    const key = keys.find((name) => this.#json[name] !== undefined) ?? keys[0];
    const value = this.#json[key];
    if (!isCount(value)) throw this.bad(key, value, "a positive integer");
    return value;
  }

  positive(key: string): number {
    const value = this.#json[key];
    if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value)) {
      throw this.bad(key, value, "a positive number");
    }
    return value;
  }

  /** A value may be absent; if there, only `expected` is implemented. */
  only(key: string, expected: string | number | boolean | null): void {
    const value = this.#json[key];
    if (value !== undefined && value !== expected) throw this.unsupported(key, value, String(expected));
  }

  /** Layer numbers, in a list or a comma-separated string. */
  layerKinds(key: string, numLayers: number): ModelConfig["layerKinds"] {
    const value = this.#json[key];
    const items: unknown[] | undefined =
      typeof value === "string"
        ? value.split(",").filter((item) => item.trim() !== "")
        : Array.isArray(value)
          ? value
          : undefined;
    const layers = items?.map((item) => (typeof item === "string" ? Number(item) : item));
    const isLayer = (item: unknown) => Number.isInteger(item) && (item as number) >= 0 && (item as number) < numLayers;
    if (layers === undefined || !layers.every(isLayer)) {
      throw this.bad(key, value, `layer numbers below num_hidden_layers, ${numLayers}`);
    }
    return Array.from({ length: numLayers }, (_, layer) => (layers.includes(layer) ? "moe" : "dense"));
  }

  /** One id, several or none. */
  tokenIds(key: string): number[] {
    const value = this.#json[key] ?? [];
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown): id is number => Number.isSafeInteger(id) && (id as number) >= 0;
    if (!ids.every(isId)) throw this.bad(key, value, "a token id or a list of them");
    return ids;
  }

  bad(key: string, found: unknown, expected: string): RallyError {
    return this.#error("bad-model", key, found, expected);
  }

  unsupported(key: string, found: unknown, expected: string): RallyError {
    return this.#error("unsupported-model", key, found, expected);
  }

  #error(code: "bad-model" | "unsupported-model", key: string, value: unknown, expected: string): RallyError {
    const found = value === undefined ? "nothing" : JSON.stringify(value).slice(0, 200);
    const message = `${this.#file}: ${key} is ${found}, expected ${expected}`;
    return new RallyError(code, message, { file: this.#file, field: key, found, expected });
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
