import type { KvKind, PlannedModel } from "./planned-model.ts";

/** What floors are made of, as measured on the card. */
export interface Ceilings {
  readonly copyBytesPerSecond: number;
  readonly fp8FlopsPerSecond: number;
  readonly bf16FlopsPerSecond: number;
}

/**
 * What no kernel can beat by much, in microseconds: the attention stage of a layer for `batch` new tokens, each against
 * `contextLength` cached ones. Its matrices, then attention itself, each the longer of moving its bytes and computing.
 */
export function attentionFloorUs(
  model: PlannedModel,
  kv: KvKind,
  batch: number,
  contextLength: number,
  ceilings: Ceilings,
): number {
  const linears = longer(
    model.attentionBytesPerLayer / ceilings.copyBytesPerSecond,
    (2 * batch * model.attentionParametersPerLayer) / ceilings.fp8FlopsPerSecond,
  );
  const kvTokens = batch * contextLength;
  const rate = kv === "fp8" ? ceilings.fp8FlopsPerSecond : ceilings.bf16FlopsPerSecond;
  const attention = longer(
    (kvTokens * model.kvBytesPerToken[kv]) / ceilings.copyBytesPerSecond,
    (kvTokens * model.attentionFlopsPerKvToken) / rate,
  );
  return linears + attention;
}

/** The experts of a layer on one GPU: `weights` of them with `rows` rows each. */
export function expertsFloorUs(model: PlannedModel, weights: number, rows: number, ceilings: Ceilings): number {
  const bytes = weights * model.expertBytes;
  return longer(bytes / ceilings.copyBytesPerSecond, (2 * rows * bytes) / ceilings.fp8FlopsPerSecond);
}

function longer(seconds: number, other: number): number {
  return 1e6 * Math.max(seconds, other);
}
