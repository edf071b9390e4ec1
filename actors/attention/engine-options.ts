import type { Clock } from "../../infra/clock.ts";
import type { RallyError } from "../../infra/errors.ts";
import type { AttentionStages } from "../../models/stages.ts";
import type { FfnSide } from "./ffn-side.ts";
import type { EngineToken } from "./sequence.ts";

interface EngineListener {
  /** All tokens of one pass together. */
  tokens(tokens: readonly EngineToken[]): void;
  failed(key: number, error: RallyError): void;
}

/** Told where the engine's time goes; for traces and busy shares. Milliseconds of `clock.elapsed()`. */
export interface ComputeObserver {
  computed(what: "attention" | "head", microBatch: number, layer: number, from: number, to: number): void;
  /** Nothing to compute although a micro-batch was under way: all of them were with the experts. */
  waited(from: number, to: number): void;
}

export interface EngineOptions {
  readonly stages: AttentionStages;
  readonly ffn: FfnSide;
  readonly clock: Clock;
  readonly listener: EngineListener;
  readonly observer: ComputeObserver;
  readonly maxSequences: number;
  /** Tokens that may be in the KV caches at once; left out: what all sequences at their longest need. */
  readonly maxKvTokens?: number;
  readonly maxMicroBatches: number;
  /** How many micro-batches new sequences are spread over now. */
  readonly microBatches: () => number;
  readonly prefillTokens: number;
}
