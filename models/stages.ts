import type { KvSlots } from "./kv-cache.ts";
import type { ModelConfig } from "./config.ts";

/**
 * The seam between a model family and the actors. An attention actor holds `AttentionStages`, an expert actor one
 * `FfnShard`; a family (Step-3 now) builds both from a checkpoint. All activations are f32, row-major.
 *
 * Promise both must keep: a row's results are bitwise the same whatever else is in the batch, however the prompt was cut
 * into chunks and however large the KV buffers are. Everything Rally promises about tokens rests on it.
 */
export interface AttentionStages {
  readonly config: ModelConfig;

  /** Keys and values for the sequences of one more micro-batch, where `attend` wants them. Passes bring it back. */
  createCache(maxSlots: number): KvSlots;

  /**
   * Prepares one trip of `numSequences × chunk` tokens through all layers: positions, causal mask, buffers.
   * Slots `firstSlot … firstSlot + numSequences - 1` of `kv` are used; sequence i has `pasts[i]` tokens there already.
   * The pass before it on the same `kv` is over then: its arrays are used again.
   */
  plan(request: PassRequest): Pass;

  /**
   * Whether `attend` does the whole of a layer: a dense FFN is computed where the attention is, because every token needs all
   * of it, so that sending it anywhere would save nothing. Then `pass.hidden` is the next layer's input at once.
   */
  completes(layer: number): boolean;

  /**
   * The attention block of one layer (input norm, MFA, residual, FFN norm, router). Reads `pass.hidden`; writes
   * `pass.residual`, `pass.ffnInput`, `pass.expertIds`, `pass.expertWeights` and the KV rows of this chunk.
   */
  attend(pass: Pass, layer: number): Promise<void>;

  /** Final norm and LM head for some rows of `pass.hidden`: logits [rows.length, vocabSize], valid until the next call. */
  head(pass: Pass, rows: readonly number[]): Promise<Float32Array>;

  release(): Promise<void>;
}

export interface PassRequest {
  /** Of `createCache`. */
  readonly kv: KvSlots;
  readonly firstSlot: number;
  readonly numSequences: number;
  /** Tokens per sequence in this pass: 1 when decoding. */
  readonly chunk: number;
  /** [numSequences] tokens already in each slot. */
  readonly pasts: readonly number[];
  /** [numSequences * chunk] token ids, sequence-major; embedded into `hidden`. */
  readonly tokenIds: readonly number[];
}

export interface Pass {
  readonly numTokens: number;
  /** [numTokens, hiddenSize] input of the next layer; the combine writes it: residual + Σ shards. */
  readonly hidden: Float32Array;
  /** [numTokens, hiddenSize] after attention, before the FFN. */
  readonly residual: Float32Array;
  /** [numTokens, hiddenSize] normed input of the FFN: what is dispatched. */
  readonly ffnInput: Float32Array;
  /** [numTokens, topK] descending weight */
  readonly expertIds: Int32Array;
  /** [numTokens, topK] router probabilities, not renormalised */
  readonly expertWeights: Float32Array;
}

/** Which part of every MoE layer's FFN one shard holds: some routed experts whole, and a column slice of the shared expert. */
export interface ShardSpec {
  readonly shard: number;
  readonly numShards: number;
  /** Routed experts of this shard, ascending. The same for every MoE layer. */
  readonly experts: readonly number[];
  /** The shared expert is computed whole where the attention is: `SharedExperts`. */
  readonly withoutShared?: boolean;
}

/** One MoE layer's FFN input for `numTokens` rows. */
export interface FfnBatch {
  readonly layer: number;
  readonly numTokens: number;
  /** [numTokens, hiddenSize] */
  readonly hidden: Float32Array;
  /** [numTokens, topK] Experts of other shards are skipped. */
  readonly expertIds: Int32Array;
  /** [numTokens, topK] */
  readonly expertWeights: Float32Array;
}

export interface FfnShard {
  readonly spec: ShardSpec;
  /**
   * This shard's share of the layer's FFN: Σ over its chosen experts, ascending, of weight × expert, plus its slice of the
   * shared expert unless it is without. Writes `output` [numTokens, hiddenSize].
   */
  forward(batch: FfnBatch, output: Float32Array): Promise<void>;
  release(): Promise<void>;
}

/**
 * The shared expert of every MoE layer. Every token visits it, and whoever has the token's FFN input can compute it: an attention
 * actor has the time while its batch is with the routed experts.
 */
export interface SharedExperts {
  /** Writes `output` [numTokens, hiddenSize]: `pass.residual` + the layer's shared expert of `pass.ffnInput`. */
  forward(pass: Pass, layer: number, output: Float32Array): Promise<void>;
  release(): Promise<void>;
}
