import type { Session, SessionTensor, SessionTensors } from "../../infra/session.ts";
import type { ModelConfig } from "../config.ts";
import { KV_BLOCK, type KvCache } from "../kv-cache.ts";
import type { Pass, PassRequest } from "../stages.ts";
import type { PassBuffers } from "./pass-buffers.ts";

/** A request over a cache that the stages made. */
export interface Step3Request extends PassRequest {
  readonly kv: KvCache;
}

/** A pass with the buffers and tensors that its layers share. */
export interface Step3Pass extends Pass {
  readonly request: Step3Request;
  /** As projected, before RoPE. */
  readonly rawQuery: Float32Array; // [numTokens, numHeads * headDim]
  readonly keyValue: Float32Array; // [numTokens, 2 * headDim]
  /** Rotated. */
  readonly query: Float32Array; // [numTokens, numHeads * headDim]
  readonly routerLogits: Float32Array; // [numTokens, numExperts]
  /** rawQuery, keyValue */
  readonly projectFetches: SessionTensors;
  /** residual, ffnInput and routerLogits; on dense layers the next layer's input alone, where the residual goes otherwise */
  readonly attendFetches: Readonly<Record<"dense" | "moe", SessionTensors>>;
  readonly projectFeeds: SessionTensors;
  readonly hiddenTensor: SessionTensor;
  /** All sequences in one run of the attend graph, or, when their lengths differ much, each in a run of its own first. */
  readonly together: SequenceRun | undefined;
  readonly apart: ApartRuns | undefined;
}

/** The attention of one sequence, or of several whose slots lie side by side: a query over keys and values of one length. */
export interface SequenceRun {
  readonly firstSlot: number;
  readonly numSequences: number;
  /** Tokens per sequence that are attended to, a multiple of KV_BLOCK. */
  readonly stride: number;
  readonly query: SessionTensor; // [numSequences, chunk * numHeads, headDim]
  readonly mask: SessionTensor; // [numSequences * chunk, 1, stride]
}

interface ApartRuns {
  readonly runs: readonly (SequenceRun & { readonly heads: SessionTensor })[];
  /** What the attend graph gets then: every head as a sequence of one key, so that its softmax is 1 and passes the value on. */
  readonly heads: SessionTensor; // [numTokens * numHeads, 1, headDim]
  readonly mask: SessionTensor; // [numTokens, 1, 1]
}

/** What a run of its own costs, measured in tokens that a decoding sequence might attend to instead. */
const RUN_COST = 350;

/** What a plan is made of. `buffers` must not be in use by another pass. */
export interface PlanTools {
  readonly config: ModelConfig;
  readonly session: Session;
  readonly buffers: PassBuffers;
}

export function planPass(tools: PlanTools, request: Step3Request, hidden: Float32Array): Step3Pass {
  const { config, session, buffers } = tools;
  const { numSequences, chunk } = request;
  const { hiddenSize, numHeads, headDim, topK, numExperts } = config;
  const numTokens = numSequences * chunk;
  const rows = (name: string, width: number) => buffers.take(name, numTokens * width);
  const queryWidth = numHeads * headDim;
  const projected = rows("projected", queryWidth + 2 * headDim);
  const attended = rows("attended", 2 * hiddenSize + numExperts);
  const query = rows("query", queryWidth);
  const [residualEnd, ffnInputEnd] = [numTokens * hiddenSize, 2 * numTokens * hiddenSize];
  const hiddenTensor = session.tensor(hidden, [numTokens, hiddenSize]);
  const apart = lengthsDiffer(request);
  return {
    request,
    numTokens,
    hidden,
    residual: attended.subarray(0, residualEnd),
    ffnInput: attended.subarray(residualEnd, ffnInputEnd),
    routerLogits: attended.subarray(ffnInputEnd),
    rawQuery: projected.subarray(0, query.length),
    keyValue: projected.subarray(query.length),
    query,
    expertIds: new Int32Array(numTokens * topK),
    expertWeights: rows("expertWeights", topK),
    hiddenTensor,
    projectFeeds: { hidden: hiddenTensor },
    projectFetches: { projected: session.tensor(projected, [projected.length]) },
    attendFetches: {
      dense: { attended: session.tensor(attended.subarray(0, residualEnd), [residualEnd]) },
      moe: { attended: session.tensor(attended, [attended.length]) },
    },
    together: apart ? undefined : sequenceRun(tools, request, query, 0, numSequences),
    apart: apart ? apartRuns(tools, request, query) : undefined,
  };
}

/** Keys and values of a run in one layer: [numSequences, stride, headDim] each. */
export function keysAndValues(session: Session, kv: KvCache, layer: number, run: SequenceRun) {
  const { firstSlot, numSequences, stride } = run;
  const { keys, values } = kv.view(layer, firstSlot, numSequences);
  const [size, dims] = [numSequences * stride * kv.headDim, [numSequences, stride, kv.headDim]];
  return { keys: session.tensor(keys.subarray(0, size), dims), values: session.tensor(values.subarray(0, size), dims) };
}

function apartRuns(tools: PlanTools, request: Step3Request, query: Float32Array): ApartRuns {
  const { config, session, buffers } = tools;
  const { numSequences, chunk } = request;
  const { numHeads, headDim } = config;
  const numTokens = numSequences * chunk;
  const heads = buffers.take("heads", numTokens * numHeads * headDim);
  const size = chunk * numHeads * headDim;
  const runs = Array.from({ length: numSequences }, (_, i) => ({
    ...sequenceRun(tools, request, query, i, 1),
    heads: session.tensor(heads.subarray(i * size, (i + 1) * size), [1, chunk * numHeads, headDim]),
  }));
  return {
    runs,
    heads: session.tensor(heads, [numTokens * numHeads, 1, headDim]),
    mask: session.tensor(buffers.take("noMask", numTokens).fill(0), [numTokens, 1, 1]),
  };
}

/** Sequences `first … first + count - 1` of the request. One alone attends to no more than its own length. */
function sequenceRun(
  { config, session, buffers }: PlanTools,
  { kv, firstSlot, chunk, pasts }: Step3Request,
  query: Float32Array,
  first: number,
  count: number,
): SequenceRun {
  const { numHeads, headDim } = config;
  const stride = count === 1 ? blocks((pasts[first] as number) + chunk) : kv.stride;
  const size = chunk * numHeads * headDim;
  const mask = buffers.take(`mask ${first}`, count * chunk * stride);
  return {
    firstSlot: firstSlot + first,
    numSequences: count,
    stride,
    query: session.tensor(query.subarray(first * size, (first + count) * size), [count, chunk * numHeads, headDim]),
    mask: session.tensor(causalMask(mask, pasts.slice(first, first + count), chunk, stride), [
      count * chunk,
      1,
      stride,
    ]),
  };
}

/** Fills `mask` [pasts.length * chunk, stride]: 0 where a token may look, -Infinity where it may not: later tokens, padding. */
function causalMask(mask: Float32Array, pasts: readonly number[], chunk: number, stride: number): Float32Array {
  mask.fill(0);
  for (let sequence = 0, row = 0; sequence < pasts.length; sequence++) {
    for (let i = 0; i < chunk; i++, row++) {
      mask.fill(-Infinity, row * stride + (pasts[sequence] as number) + i + 1, (row + 1) * stride);
    }
  }
  return mask;
}

/** Whether padding every sequence to the stride costs more than a run for each. */
function lengthsDiffer({ kv, numSequences, chunk, pasts }: Step3Request): boolean {
  if (numSequences === 1) return false;
  let lengths = 0;
  for (const past of pasts) lengths += blocks(past + chunk);
  return lengths + (numSequences * RUN_COST) / chunk < numSequences * kv.stride;
}

function blocks(length: number): number {
  return Math.ceil(length / KV_BLOCK) * KV_BLOCK;
}
