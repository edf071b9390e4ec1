/** What the actors need to know of a model, whatever its family. */
export interface ModelConfig {
  readonly family: "step3";
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly vocabSize: number;
  /** Longest sequence in tokens, prompt and output together. */
  readonly contextLength: number;
  readonly rmsNormEps: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Width of the low-rank query that all heads share (MFA). */
  readonly shareQDim: number;
  readonly ropeTheta: number;
  /** Per layer: MoE or dense. [numLayers] */
  readonly layerKinds: readonly ("moe" | "dense")[];
  readonly numExperts: number;
  readonly topK: number;
  readonly expertDim: number;
  readonly sharedExpertDim: number;
  readonly denseDim: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
}
