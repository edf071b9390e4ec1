import { RallyError } from "../../infra/errors.ts";
import { toWireF32, toWireI32, type WireDtype } from "../../infra/tensor.ts";
import { MAX_BATCH_ROWS } from "../protocol/limits.ts";
import type { ActivationBatch } from "../protocol/messages.ts";
import type { Trip } from "./ffn-side.ts";

export interface DispatchOptions {
  readonly deployment: string;
  readonly attentionId: string;
  readonly hiddenSize: number;
  readonly topK: number;
  readonly wireDtype: Exclude<WireDtype, "i32">;
}

export interface RowRange {
  readonly from: number;
  readonly count: number;
}

/** Room for a message's metadata: names of up to 64 characters, numbers, map keys. */
const METADATA_BYTES = 1024;

/** Payload bytes of one row: hidden state (with its scale), expert ids and weights. */
export function bytesPerRow(options: DispatchOptions): number {
  const elementBytes = { f32: 4, f16: 2, "int8-row": 1 }[options.wireDtype];
  // An answer's row is never larger: the same hidden state without ids and weights.
  return options.hiddenSize * elementBytes + 4 + options.topK * 8;
}

/** Cuts rows into parts that fit `maxPayload` and what an expert takes at once, as even as possible. */
export function splitRows(numTokens: number, rowBytes: number, maxPayload: number): RowRange[] {
  const most = Math.min(MAX_BATCH_ROWS, Math.floor((maxPayload - METADATA_BYTES) / rowBytes));
  if (most < 1) {
    throw new RallyError("payload-too-large", `a row of ${rowBytes} bytes does not fit max_payload ${maxPayload}`, {
      field: "max_payload",
      found: maxPayload,
      needed: rowBytes + METADATA_BYTES,
    });
  }
  const numParts = Math.ceil(numTokens / most);
  return Array.from({ length: numParts }, (_, part) => {
    const from = Math.floor((part * numTokens) / numParts);
    return { from, count: Math.floor(((part + 1) * numTokens) / numParts) - from };
  });
}

/** The tensors are views of the trip's pass: encode it before the pass goes on. */
export function activationBatch(
  options: DispatchOptions,
  trip: Trip,
  rows: RowRange,
  meta: { readonly part: number; readonly attempt: number; readonly epoch: number; readonly deadline: number },
): ActivationBatch {
  const { hiddenSize, topK } = options;
  const { pass, layer } = trip;
  const { from, count } = rows;
  const [firstId, lastId] = [from * topK, (from + count) * topK];
  return {
    kind: "activations",
    deployment: options.deployment,
    epoch: meta.epoch,
    attentionId: options.attentionId,
    passId: trip.passId,
    microBatch: trip.microBatch,
    layer,
    part: meta.part,
    attempt: meta.attempt,
    deadline: meta.deadline,
    hidden: toWireF32(
      pass.ffnInput.subarray(from * hiddenSize, (from + count) * hiddenSize),
      [count, hiddenSize],
      options.wireDtype,
    ),
    expertIds: toWireI32(pass.expertIds.subarray(firstId, lastId), [count, topK]),
    expertWeights: toWireF32(pass.expertWeights.subarray(firstId, lastId), [count, topK], "f32"),
  };
}
