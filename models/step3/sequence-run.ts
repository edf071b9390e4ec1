import type { Session, SessionTensor, SessionTensors } from "../../infra/session.ts";
import type { ModelConfig } from "../config.ts";
import { KV_BLOCK, type KvCache } from "../kv-cache.ts";
import type { PassRequest } from "../stages.ts";
import type { PassBuffers } from "./pass-buffers.ts";

/** A request over a cache that the stages made. */
export interface Step3Request extends PassRequest {
  readonly kv: KvCache;
}

/** What a plan is made of. `buffers` must not be in use by another pass. */
export interface PlanTools {
  readonly config: ModelConfig;
  readonly session: Session;
  readonly buffers: PassBuffers;
}

/** The attention of one sequence, or of several whose slots lie side by side: a query over keys and values of one length. */
export interface SequenceRun {
  /** Of the request's sequences. */
  readonly first: number;
  readonly numSequences: number;
  /** Tokens per sequence that are attended to, a multiple of KV_BLOCK. */
  readonly stride: number;
  readonly query: SessionTensor; // [numSequences, chunk * numHeads, headDim]
  readonly mask: SessionTensor; // [numSequences * chunk, 1, stride]
  readonly maskData: Float32Array;
}

/** Tokens that one run for `count` sequences from `first` on attends to. One alone attends to no more than its own length. */
export function strideOf({ kv, chunk, pasts }: Step3Request, first: number, count: number): number {
  return count === 1 ? blocks((pasts[first] as number) + chunk) : kv.stride;
}

/** The mask is still to be filled. */
export function sequenceRun(
  { config, session, buffers }: PlanTools,
  request: Step3Request,
  query: Float32Array, // [numTokens, numHeads * headDim]
  first: number,
  count: number,
): SequenceRun {
  const { numHeads, headDim } = config;
  const { chunk } = request;
  const stride = strideOf(request, first, count);
  const size = chunk * numHeads * headDim;
  const maskData = buffers.take(`mask ${first}`, count * chunk * stride);
  return {
    first,
    numSequences: count,
    stride,
    query: session.tensor(query.subarray(first * size, (first + count) * size), [count, chunk * numHeads, headDim]),
    mask: session.tensor(maskData, [count * chunk, 1, stride]),
    maskData,
  };
}

/** 0 where a token may look, -Infinity where it may not: later tokens, padding. */
export function fillMask({ first, numSequences, stride, maskData }: SequenceRun, { chunk, pasts }: Step3Request): void {
  maskData.fill(0);
  for (let i = 0, row = 0; i < numSequences; i++) {
    for (let last = pasts[first + i] as number, end = last + chunk; last < end; last++, row++) {
      maskData.fill(-Infinity, row * stride + last + 1, (row + 1) * stride);
    }
  }
}

/** What a run reads in one layer; keys and values are [numSequences, stride, headDim] each. */
export function runFeeds(
  { session }: PlanTools,
  { kv, firstSlot }: Step3Request,
  { first, numSequences, stride, query, mask }: SequenceRun,
  layer: number,
): SessionTensors {
  const { keys, values } = kv.view(layer, firstSlot + first, numSequences);
  const [size, dims] = [numSequences * stride * kv.headDim, [numSequences, stride, kv.headDim]];
  return {
    query,
    keys: session.tensor(keys.subarray(0, size), dims),
    values: session.tensor(values.subarray(0, size), dims),
    mask,
  };
}

/** `length` tokens and as many more as fill their last block. */
export function blocks(length: number): number {
  return Math.ceil(length / KV_BLOCK) * KV_BLOCK;
}
