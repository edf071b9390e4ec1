import { describe, expect, it } from "vitest";
import { parseStep3Config, step3TextConfig } from "../../../models/step3/config.ts";

const BASE = {
  architectures: ["Step3TextForCausalLM"],
  model_type: "step3_text",
  hidden_size: 384,
  intermediate_size: 768,
  num_attention_heads: 12,
  num_attention_groups: 1,
  num_hidden_layers: 8,
  max_position_embedding: 1024,
  vocab_size: 4096,
  rms_norm_eps: 1e-5,
  moe_intermediate_size: 192,
  moe_num_experts: 8,
  moe_top_k: 3,
  rope_theta: 500_000,
  rope_scaling: null,
  share_expert_dim: 192,
  share_q_dim: 192,
  head_dim: 64,
  norm_expert_weight: false,
  moe_layers_enum: "1,2, 3,4,5,6",
  bos_token_id: 0,
  eos_token_id: [1, 2],
};

const parse = (changes: Readonly<Record<string, unknown>>) => parseStep3Config({ ...BASE, ...changes }, "config.json");

describe("a Step-3 config", () => {
  it("becomes a ModelConfig", () => {
    expect(parse({})).toEqual({
      weightBlock: [128, 128],
      config: {
        family: "step3",
        hiddenSize: 384,
        numLayers: 8,
        vocabSize: 4096,
        contextLength: 1024,
        rmsNormEps: 1e-5,
        numHeads: 12,
        headDim: 64,
        shareQDim: 192,
        ropeTheta: 500_000,
        layerKinds: ["dense", "moe", "moe", "moe", "moe", "moe", "moe", "dense"],
        numExperts: 8,
        topK: 3,
        expertDim: 192,
        sharedExpertDim: 192,
        denseDim: 768,
        bosTokenId: 0,
        eosTokenIds: [1, 2],
      },
    });
  });

  it("takes the forms that are around", () => {
    expect(parse({ moe_layers_enum: [1, 7] }).config.layerKinds).toEqual([
      "dense",
      "moe",
      "dense",
      "dense",
      "dense",
      "dense",
      "dense",
      "moe",
    ]);
    expect(parse({ moe_layers_enum: "" }).config.layerKinds).not.toContain("moe");
    expect(parse({ max_position_embedding: undefined, max_seq_len: 77 }).config.contextLength).toBe(77);
    expect(parse({ eos_token_id: 5, bos_token_id: null }).config).toMatchObject({
      eosTokenIds: [5],
      bosTokenId: undefined,
    });
    expect(parse({ quantization_config: { quant_method: "fp8", weight_block_size: [64, 32] } }).weightBlock).toEqual([
      64, 32,
    ]);
  });

  it("is found in a vision model's config", () => {
    const nested = { architectures: ["Step3VLForConditionalGeneration"], model_type: "step3_vl", text_config: BASE };
    expect(step3TextConfig(nested)).toBe(BASE);
    expect(parseStep3Config(nested, "config.json")).toEqual(parse({}));
    expect(step3TextConfig({ architectures: ["LlamaForCausalLM"], model_type: "llama" })).toBeUndefined();
  });

  it.each([
    ["num_attention_groups", 4],
    ["rope_scaling", { type: "yarn" }],
    ["norm_expert_weight", true],
    ["tie_word_embeddings", true],
    ["quantization_config", { quant_method: "gptq" }],
  ])("with %s of %j is not supported", (key, value) => {
    expect(() => parse({ [key]: value })).toThrow(expect.objectContaining({ code: "unsupported-model" }));
    expect(() => parse({ [key]: value })).toThrow(key);
  });

  it.each([
    ["hidden_size", undefined],
    ["hidden_size", "384"],
    ["num_hidden_layers", 0],
    ["num_hidden_layers", 1.5],
    ["rms_norm_eps", -1],
    ["rope_theta", Number.NaN],
    ["head_dim", 63],
    ["moe_top_k", 9],
    ["moe_layers_enum", undefined],
    ["moe_layers_enum", "1,8"],
    ["moe_layers_enum", "1,x"],
    ["eos_token_id", "</s>"],
    ["quantization_config", { weight_block_size: [128] }],
  ])("with %s of %j is refused", (key, value) => {
    expect(() => parse({ [key]: value })).toThrow(expect.objectContaining({ code: "bad-model" }));
    expect(() => parse({ [key]: value })).toThrow(key);
  });
});
