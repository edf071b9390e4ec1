import type { SessionTensor, SessionTensors } from "../../infra/session.ts";
import type { Pass } from "../stages.ts";
import {
  blocks,
  fillMask,
  type PlanTools,
  runFeeds,
  type SequenceRun,
  sequenceRun,
  type Step3Request,
  strideOf,
} from "./sequence-run.ts";

/**
 * A pass with the buffers, tensors and views that its layers share. The next pass of the same shape over the same cache is the
 * same object again: decoding then makes next to nothing anew.
 */
export interface Step3Pass extends Pass {
  request: Step3Request;
  /** Of the cache, when the pass was laid out. */
  readonly stride: number;
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
  /** All sequences in one run of the attend graph, or, when their lengths differ much, each in a run of its own first. */
  readonly runs: readonly SequenceRun[];
  readonly apart: ApartRuns | undefined;
  readonly layers: readonly PassLayer[];
}

/** What a pass has of one layer. */
export interface PassLayer {
  /** Of its slots, where the chunk's keys and values go: [numSequences, cache stride, headDim]. */
  readonly keys: Float32Array;
  readonly values: Float32Array;
  /** Per run what its attention reads. */
  readonly runFeeds: readonly SessionTensors[];
  readonly attendFeeds: SessionTensors;
}

interface ApartRuns {
  /** Per run */
  readonly fetches: readonly SessionTensors[];
  /** What the attend graph gets then: every head as a sequence of one key, so that its softmax is 1 and passes the value on. */
  readonly heads: SessionTensor; // [numTokens * numHeads, 1, headDim]
  readonly mask: SessionTensor; // [numTokens, 1, 1]
}

/** What a run of its own costs, measured in tokens that a decoding sequence might attend to instead. */
const RUN_COST = 350;

/** `last`: the one before over the same cache. `hidden` is still to be filled. */
export function planPass(tools: PlanTools, request: Step3Request, last: Step3Pass | undefined): Step3Pass {
  const pass = last !== undefined && hasShape(last, request) ? last : layOut(tools, request);
  pass.request = request;
  for (const run of pass.runs) fillMask(run, request);
  return pass;
}

function hasShape({ request: last, stride, runs, apart }: Step3Pass, request: Step3Request): boolean {
  const { kv, firstSlot, numSequences, chunk } = request;
  return (
    kv.stride === stride &&
    firstSlot === last.firstSlot &&
    numSequences === last.numSequences &&
    chunk === last.chunk &&
    lengthsDiffer(request) === (apart !== undefined) &&
    runs.every((run) => run.stride === strideOf(request, run.first, run.numSequences))
  );
}

function layOut(tools: PlanTools, request: Step3Request): Step3Pass {
  const { config, session, buffers } = tools;
  const { kv, numSequences, chunk } = request;
  const { hiddenSize, numHeads, headDim, topK, numExperts } = config;
  const numTokens = numSequences * chunk;
  const rows = (name: string, width: number) => buffers.take(name, numTokens * width);
  const queryWidth = numHeads * headDim;
  const projected = rows("projected", queryWidth + 2 * headDim);
  const attended = rows("attended", 2 * hiddenSize + numExperts);
  const query = rows("query", queryWidth);
  const [residualEnd, ffnInputEnd] = [numTokens * hiddenSize, 2 * numTokens * hiddenSize];
  const hidden = rows("hidden", hiddenSize);
  const hiddenTensor = session.tensor(hidden, [numTokens, hiddenSize]);
  const runs = lengthsDiffer(request)
    ? Array.from({ length: numSequences }, (_, i) => sequenceRun(tools, request, query, i, 1))
    : [sequenceRun(tools, request, query, 0, numSequences)];
  const apart = lengthsDiffer(request) ? apartRuns(tools, request) : undefined;
  return {
    request,
    stride: kv.stride,
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
    projectFeeds: { hidden: hiddenTensor },
    projectFetches: { projected: session.tensor(projected, [projected.length]) },
    attendFetches: {
      dense: { attended: session.tensor(attended.subarray(0, residualEnd), [residualEnd]) },
      moe: { attended: session.tensor(attended, [attended.length]) },
    },
    runs,
    apart,
    layers: config.layerKinds.map((_, layer) =>
      passLayer(tools, request, { runs, apart, hidden: hiddenTensor }, layer),
    ),
  };
}

function passLayer(
  tools: PlanTools,
  request: Step3Request,
  { runs, apart, hidden }: Pick<Step3Pass, "runs" | "apart"> & { readonly hidden: SessionTensor },
  layer: number,
): PassLayer {
  const feeds = runs.map((run) => runFeeds(tools, request, run, layer));
  return {
    ...request.kv.view(layer, request.firstSlot, request.numSequences),
    runFeeds: feeds,
    attendFeeds:
      apart === undefined
        ? { ...feeds[0], hidden }
        : { query: apart.heads, keys: apart.heads, values: apart.heads, mask: apart.mask, hidden },
  };
}

function apartRuns({ config, session, buffers }: PlanTools, { numSequences, chunk }: Step3Request): ApartRuns {
  const { numHeads, headDim } = config;
  const numTokens = numSequences * chunk;
  const heads = buffers.take("heads", numTokens * numHeads * headDim);
  const size = chunk * numHeads * headDim;
  return {
    fetches: Array.from({ length: numSequences }, (_, i) => ({
      heads: session.tensor(heads.subarray(i * size, (i + 1) * size), [1, chunk * numHeads, headDim]),
    })),
    heads: session.tensor(heads, [numTokens * numHeads, 1, headDim]),
    mask: session.tensor(buffers.take("noMask", numTokens).fill(0), [numTokens, 1, 1]),
  };
}

/** Whether padding every sequence to the stride costs more than a run for each. */
function lengthsDiffer({ kv, numSequences, chunk, pasts }: Step3Request): boolean {
  if (numSequences === 1) return false;
  let lengths = 0;
  for (const past of pasts) lengths += blocks(past + chunk);
  return lengths + (numSequences * RUN_COST) / chunk < numSequences * kv.stride;
}
