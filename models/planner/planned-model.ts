import type { ModelConfig } from "../config.ts";
import { STEP3_CONFIG } from "./step3-config.ts";

export type KvKind = "fp8" | "bf16";

/** What a plan must know of a model: how often each stage runs and what it keeps in memory. Weights are in FP8, a byte each. */
export interface PlannedModel {
  readonly name: "step3" | "dsv3";
  readonly hiddenSize: number;
  readonly numMoeLayers: number;
  readonly numDenseLayers: number;
  /** Routed. Every token also visits one shared expert of the same size. */
  readonly numExperts: number;
  readonly topK: number;
  readonly attentionBytesPerLayer: number;
  /** Of its matrices; twice as many operations per token. */
  readonly attentionParametersPerLayer: number;
  readonly expertBytes: number;
  readonly denseBytes: number;
  /** Embedding table in bf16 and LM head in FP8. */
  readonly edgeBytes: number;
  /** Multiplications and additions of all heads of one new token against one token of the cache, in one layer. */
  readonly attentionFlopsPerKvToken: number;
  /** Of one token in one layer. */
  readonly kvBytesPerToken: Readonly<Record<KvKind, number>>;
}

/** Multi-matrix factorisation attention: one key and one value head, one f32 scale each in FP8. */
function plannedStep3(config: ModelConfig): PlannedModel {
  const { hiddenSize, numHeads, headDim, shareQDim, layerKinds, vocabSize } = config;
  const heads = numHeads * headDim;
  const parameters = hiddenSize * (shareQDim + 2 * headDim) + shareQDim * heads + heads * hiddenSize;
  return {
    name: "step3",
    hiddenSize,
    numMoeLayers: layerKinds.filter((kind) => kind === "moe").length,
    numDenseLayers: layerKinds.filter((kind) => kind === "dense").length,
    numExperts: config.numExperts,
    topK: config.topK,
    attentionBytesPerLayer: parameters,
    attentionParametersPerLayer: parameters,
    expertBytes: 3 * hiddenSize * config.expertDim,
    denseBytes: 3 * hiddenSize * config.denseDim,
    edgeBytes: 3 * vocabSize * hiddenSize,
    attentionFlopsPerKvToken: 4 * heads,
    kvBytesPerToken: { fp8: 2 * (headDim + 4), bf16: 4 * headDim },
  };
}

export const STEP3 = plannedStep3(STEP3_CONFIG);

const DSV3_HIDDEN = 7168;
const DSV3_LATENT = 512 + 64;
const DSV3_HEADS = 128;
/** Per-head halves of the key and value projections, absorbed into queries and outputs. */
const DSV3_ABSORBED = 2 * DSV3_HEADS * 128 * 512;
const DSV3_LINEARS = DSV3_HIDDEN * (1536 + DSV3_LATENT) + 1536 * DSV3_HEADS * 192 + DSV3_HEADS * 128 * DSV3_HIDDEN;

/** Multi-head latent attention, 128 heads, absorbed: the per-head halves of the key and value projections stay in bf16. */
export const DEEPSEEK_V3: PlannedModel = {
  name: "dsv3",
  hiddenSize: DSV3_HIDDEN,
  numMoeLayers: 58,
  numDenseLayers: 3,
  numExperts: 256,
  topK: 8,
  attentionBytesPerLayer: DSV3_LINEARS + 2 * DSV3_ABSORBED,
  attentionParametersPerLayer: DSV3_LINEARS + DSV3_ABSORBED,
  expertBytes: 3 * DSV3_HIDDEN * 2048,
  denseBytes: 3 * DSV3_HIDDEN * 18_432,
  edgeBytes: 3 * 129_280 * DSV3_HIDDEN,
  attentionFlopsPerKvToken: 2 * DSV3_HEADS * (DSV3_LATENT + 512),
  kvBytesPerToken: { fp8: DSV3_LATENT + 4, bf16: 2 * DSV3_LATENT },
};
