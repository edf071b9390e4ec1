import type { ModelConfig } from "../config.ts";

const NUM_LAYERS = 61;
const DENSE_LAYERS: readonly number[] = [0, 1, 2, 3, 60];

/** Step-3 as released: 316 billion parameters, 38 billion active per token. For plans and benchmarks, which have no checkpoint. */
export const STEP3_CONFIG: ModelConfig = {
  family: "step3",
  hiddenSize: 7168,
  numLayers: NUM_LAYERS,
  vocabSize: 128_815,
  contextLength: 65_536,
  rmsNormEps: 1e-5,
  numHeads: 64,
  headDim: 256,
  shareQDim: 2048,
  ropeTheta: 500_000,
  layerKinds: Array.from({ length: NUM_LAYERS }, (_, layer) => (DENSE_LAYERS.includes(layer) ? "dense" : "moe")),
  numExperts: 48,
  topK: 3,
  expertDim: 5120,
  sharedExpertDim: 5120,
  denseDim: 18_432,
  bosTokenId: 0,
  eosTokenIds: [128_805],
};
