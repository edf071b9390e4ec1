import type { Checkpoint } from "../checkpoint.ts";
import type { ModelConfig } from "../config.ts";

/** A SwiGLU FFN's three matrices as stored: gate and up [dim, hidden], down [hidden, dim]. */
export interface FfnWeights {
  readonly dim: number;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

/** The names and shapes of a Step-3 checkpoint; every matrix is [out, in]. Nothing is kept: each call reads the file. */
export class Step3Weights {
  readonly #checkpoint: Checkpoint;
  readonly #config: ModelConfig;

  constructor(checkpoint: Checkpoint, config: ModelConfig) {
    this.#checkpoint = checkpoint;
    this.#config = config;
  }

  /** [vocabSize, hiddenSize] */
  embedding(): Float32Array {
    const { vocabSize, hiddenSize } = this.#config;
    return this.#checkpoint.read("model.embed_tokens.weight", [vocabSize, hiddenSize]);
  }

  head(): { readonly norm: Float32Array; readonly lmHead: Float32Array } {
    const { vocabSize, hiddenSize } = this.#config;
    return {
      norm: this.#checkpoint.read("model.norm.weight", [hiddenSize]),
      lmHead: this.#checkpoint.read("lm_head.weight", [vocabSize, hiddenSize]),
    };
  }

  attention(layer: number) {
    const { hiddenSize, numHeads, headDim, shareQDim, numExperts, layerKinds } = this.#config;
    const read = (name: string, shape: readonly number[]) =>
      this.#checkpoint.read(`model.layers.${layer}.${name}.weight`, shape);
    return {
      inputNorm: read("input_layernorm", [hiddenSize]),
      qDown: read("self_attn.q_proj", [shareQDim, hiddenSize]),
      interNorm: read("self_attn.inter_norm", [shareQDim]),
      qUp: read("self_attn.wq", [numHeads * headDim, shareQDim]),
      key: read("self_attn.k_proj", [headDim, hiddenSize]),
      value: read("self_attn.v_proj", [headDim, hiddenSize]),
      output: read("self_attn.o_proj", [hiddenSize, numHeads * headDim]),
      ffnNorm: read("post_attention_layernorm", [hiddenSize]),
      router: layerKinds[layer] === "moe" ? read("moe.gate", [numExperts, hiddenSize]) : undefined,
    };
  }

  dense(layer: number): FfnWeights {
    return this.#ffn(`model.layers.${layer}.mlp`, this.#config.denseDim);
  }

  shared(layer: number): FfnWeights {
    return this.#ffn(`model.layers.${layer}.share_expert`, this.#config.sharedExpertDim);
  }

  expert(layer: number, expert: number): FfnWeights {
    const { hiddenSize, numExperts, expertDim: dim } = this.#config;
    const read = (name: string, shape: readonly number[]) =>
      this.#checkpoint.read(`model.layers.${layer}.moe.${name}.weight`, [numExperts, ...shape], {
        first: expert,
        count: 1,
      });
    return {
      dim,
      gate: read("gate_proj", [dim, hiddenSize]),
      up: read("up_proj", [dim, hiddenSize]),
      down: read("down_proj", [hiddenSize, dim]),
    };
  }

  #ffn(prefix: string, dim: number): FfnWeights {
    const { hiddenSize } = this.#config;
    return {
      dim,
      gate: this.#checkpoint.read(`${prefix}.gate_proj.weight`, [dim, hiddenSize]),
      up: this.#checkpoint.read(`${prefix}.up_proj.weight`, [dim, hiddenSize]),
      down: this.#checkpoint.read(`${prefix}.down_proj.weight`, [hiddenSize, dim]),
    };
  }
}
