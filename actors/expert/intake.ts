import { RallyError } from "../../infra/errors.ts";
import { fromWireF32, fromWireI32 } from "../../infra/tensor.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { FfnBatch } from "../../models/stages.ts";
import { MAX_BATCH_ROWS } from "../protocol/limits.ts";
import type { ActivationBatch } from "../protocol/messages.ts";

/** Tensors of their own, copied out of the message, whose bytes the bus takes back. */
export type FfnInput = FfnBatch;

/** RallyError unless the batch is for this deployment, this placement, and still wanted. */
export function checkPlace(
  batch: ActivationBatch,
  here: { readonly deployment: string; readonly epoch: number; readonly now: number },
): void {
  if (batch.deployment !== here.deployment) {
    throw new RallyError("unknown-deployment", `this expert serves ${here.deployment}, not ${batch.deployment}`, {
      field: "deployment",
      found: batch.deployment,
      expected: here.deployment,
    });
  }
  if (batch.epoch !== here.epoch) {
    throw new RallyError("stale-epoch", `placement epoch is ${here.epoch}, the batch has ${batch.epoch}`, {
      field: "epoch",
      found: batch.epoch,
      expected: here.epoch,
    });
  }
  if (batch.deadline < here.now) {
    throw new RallyError("deadline-exceeded", "the batch's deadline has passed", { deadline: batch.deadline });
  }
}

/** Where the copies of hidden rows go; they are the caller's to give back. */
export interface HiddenRows {
  take(length: number): Float32Array;
}

/** RallyError `bad-message` unless layer, shapes, dtypes and expert ids are the model's. */
export function takeInput(batch: ActivationBatch, config: ModelConfig, rows: HiddenRows): FfnInput {
  const { layer } = batch;
  const kind = config.layerKinds[layer];
  if (kind !== "moe")
    throw outOfRange("layer", layer, kind === undefined ? `below ${config.numLayers}` : "a MoE layer");
  const numTokens = batch.hidden.shape[0] ?? 0;
  if (numTokens < 1 || numTokens > MAX_BATCH_ROWS) {
    throw outOfRange("hidden.shape[0]", numTokens, `from 1 to ${MAX_BATCH_ROWS}`);
  }
  const routed = [numTokens, config.topK];
  const expertIds = fromWireI32(batch.expertIds, routed);
  for (const id of expertIds) {
    if (id < 0 || id >= config.numExperts) throw outOfRange("expertIds", id, `from 0, below ${config.numExperts}`);
  }
  const expertWeights = fromWireF32(batch.expertWeights, routed);
  const shape = [numTokens, config.hiddenSize];
  const hidden = fromWireF32(batch.hidden, shape, rows.take(numTokens * config.hiddenSize));
  return { layer, numTokens, hidden, expertIds, expertWeights };
}

function outOfRange(field: string, found: number, expected: string): RallyError {
  return new RallyError("bad-message", `${field} is ${found}, must be ${expected}`, { field, found, expected });
}
