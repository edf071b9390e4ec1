import {
  attentionWeightBytes,
  ffnWeightBytes,
  fits,
  H100_80GB,
  kvBytes,
  type GpuLimits,
  numLayersOf,
} from "./memory.ts";
import type { KvKind, PlannedModel } from "./planned-model.ts";
import { measuredUpTo, type StageTimes, timeAt, timeOfNext } from "./stage-times.ts";

/** GPUs of one server. */
const SERVER_GPUS = 8;

/** `attentionServers` A `ffnServers` F, e.g. 2A2F: servers of eight GPUs each. */
export interface Deployment {
  readonly attentionServers: number;
  readonly ffnServers: number;
}

export interface Load {
  readonly kv: KvKind;
  readonly contextLength: number;
  readonly microBatches: number;
}

/** What a deployment does with `batch` sequences of each micro-batch on each attention GPU. */
export interface Projection extends Deployment, Load {
  readonly batch: number;
  readonly gpus: number;
  /** Sequences in flight in the whole deployment. */
  readonly sequences: number;
  readonly attentionUs: number;
  /** A MoE layer's FFN stage. */
  readonly ffnUs: number;
  /** Whether `ffnUs` was measured with as many expert weights per GPU as this deployment has, or scaled from another number. */
  readonly isFfnMeasured: boolean;
  readonly tpotMs: number;
  readonly tokensPerSecondPerGpu: number;
  /** ASSUMED, not measured: a micro-batch's transfers of a layer, there and back, take at most this, so that the pipeline hides them. */
  readonly hiddenTransferUs: number;
  /** What the busiest GPU's network must carry for that: every FFN server gets every token in FP8 and answers in bf16. */
  readonly networkGbps: number;
  readonly attentionBytes: number;
  readonly ffnBytes: number;
  /** Whether both sides stay within their memory. */
  readonly fits: boolean;
}

/**
 * The pipeline of the Step-3 report: micro-batches take turns, attention computes one while the FFN side computes another and the
 * rest travel. A layer then takes `microBatches` times the longer stage, or a micro-batch's own way round if that is longer. Embedding
 * and head run on the attention GPUs once per token, with nothing beside them.
 */
export function project(
  model: PlannedModel,
  times: StageTimes,
  deployment: Deployment,
  load: Load,
  batch: number,
  limits: GpuLimits = H100_80GB,
): Projection {
  const { attentionServers, ffnServers } = deployment;
  const { microBatches, kv, contextLength } = load;
  const [attentionGpus, ffnGpus] = [attentionServers * SERVER_GPUS, ffnServers * SERVER_GPUS];
  const tokens = batch * attentionGpus; // of a micro-batch
  const share = ffnShare(model, times, tokens, ffnGpus);
  const attentionUs = timeAt(times.attention, batch, "the attention stage");
  const denseUs = timeOfNext(times.dense, tokens / ffnGpus, "a dense layer");
  const layerUs = (ffn: number) => Math.max(microBatches * Math.max(attentionUs, ffn), attentionUs + ffn);
  const headUs = microBatches * timeAt(times.head, batch, "the head");
  const tokenUs = model.numMoeLayers * layerUs(share.us) + model.numDenseLayers * layerUs(denseUs) + headUs;
  const hiddenUs = Math.max(0, layerUs(share.us) - attentionUs - share.us);
  // An attention GPU talks to one GPU of each FFN server, and the other way round.
  const busiestTokens = batch * Math.max(attentionServers, ffnServers);
  const sequences = tokens * microBatches;
  const gpus = attentionGpus + ffnGpus;
  const attentionBytes = attentionWeightBytes(model) + kvBytes(model, kv, microBatches * batch, contextLength);
  const ffnBytes = ffnWeightBytes(model, share.weights);
  return {
    ...deployment,
    ...load,
    batch,
    gpus,
    sequences,
    attentionUs,
    ffnUs: share.us,
    isFfnMeasured: share.weights === times.weightsPerPoint,
    tpotMs: tokenUs / 1000,
    tokensPerSecondPerGpu: tokensPerSecondPerGpu(sequences, tokenUs / 1000, gpus),
    hiddenTransferUs: hiddenUs,
    networkGbps: (busiestTokens * 3 * model.hiddenSize * 8) / 1000 / hiddenUs,
    attentionBytes,
    ffnBytes,
    fits: fits(attentionBytes, limits) && fits(ffnBytes, limits),
  };
}

export function tokensPerSecondPerGpu(sequences: number, tpotMs: number, gpus: number): number {
  return (sequences * 1000) / tpotMs / gpus;
}

/**
 * An even share of the routed experts and a whole shared expert for an even share of the tokens. Where the number of weights is not
 * the measured one, each weight is taken to need what it did there at as many rows.
 */
function ffnShare(model: PlannedModel, times: StageTimes, tokens: number, ffnGpus: number) {
  const weights = model.numExperts / ffnGpus + 1;
  const rows = (tokens * (model.topK + 1)) / ffnGpus;
  const us = timeOfNext(times.experts, rows / weights, "the FFN stage");
  return { weights, us: (us * weights) / times.weightsPerPoint };
}

/** Batches are multiples of this, as kernels like them. */
const BATCH_STEP = 4;

/** The batch with the most tokens per second under `tpotMs` that memory and network allow; undefined if there is none. */
export function bestBatch(
  model: PlannedModel,
  times: StageTimes,
  deployment: Deployment,
  load: Load,
  tpotMs: number,
  limits: GpuLimits = H100_80GB,
): Projection | undefined {
  const { attentionServers, ffnServers } = deployment;
  const { topK, numExperts } = model;
  const ratio = attentionServers / ffnServers;
  const rowsPerSequence = (ratio * (topK + 1)) / (numExperts / (ffnServers * SERVER_GPUS) + 1);
  const most = Math.min(
    measuredUpTo(times.attention),
    measuredUpTo(times.head),
    measuredUpTo(times.dense) / ratio,
    measuredUpTo(times.experts) / rowsPerSequence,
  );
  let best: Projection | undefined;
  for (let batch = BATCH_STEP; batch <= most; batch += BATCH_STEP) {
    const found = project(model, times, deployment, load, batch, limits);
    if (!found.fits || found.tpotMs > tpotMs || found.networkGbps > limits.networkGbps) continue;
    if (best === undefined || found.tokensPerSecondPerGpu > best.tokensPerSecondPerGpu) best = found;
  }
  return best;
}

/** The best of all deployments of up to `mostServers` servers of each kind; fewer GPUs win a tie. */
export function bestDeployment(
  model: PlannedModel,
  times: StageTimes,
  load: Load,
  tpotMs: number,
  mostServers: number,
  limits?: GpuLimits,
): Projection | undefined {
  let best: Projection | undefined;
  for (let ffnServers = 1; ffnServers <= mostServers; ffnServers++) {
    for (let attentionServers = 1; attentionServers <= mostServers; attentionServers++) {
      const found = bestBatch(model, times, { attentionServers, ffnServers }, load, tpotMs, limits);
      if (found === undefined) continue;
      if (best === undefined || found.tokensPerSecondPerGpu > best.tokensPerSecondPerGpu) best = found;
    }
  }
  return best;
}

/** Attention and experts on every GPU (expert parallelism, as DeepSeek serves DeepSeek-V3). */
export interface ColocatedProjection {
  readonly batch: number;
  readonly tpotMs: number;
  readonly tokensPerSecondPerGpu: number;
  readonly bytes: number;
  readonly fits: boolean;
}

/**
 * Micro-batches of `batch` sequences compute one after the other, each hiding the other's transfers (ASSUMED whole). `times` must hold
 * the experts of one GPU's share at `batch` tokens of each GPU: rows are sequences here.
 */
export function projectColocated(
  model: PlannedModel,
  times: StageTimes,
  load: Load,
  batch: number,
  expertsPerGpu: number,
  limits: GpuLimits = H100_80GB,
): ColocatedProjection {
  const { microBatches, kv, contextLength } = load;
  const attentionUs = numLayersOf(model) * timeAt(times.attention, batch, "the attention stage");
  const moeUs = model.numMoeLayers * timeOfNext(times.experts, batch, "the FFN stage");
  const denseUs = model.numDenseLayers * timeOfNext(times.dense, batch, "a dense layer");
  const tpotMs = (microBatches * (attentionUs + moeUs + denseUs + timeAt(times.head, batch, "the head"))) / 1000;
  const sequences = microBatches * batch;
  const bytes =
    attentionWeightBytes(model) + ffnWeightBytes(model, expertsPerGpu) + kvBytes(model, kv, sequences, contextLength);
  return {
    batch,
    tpotMs,
    tokensPerSecondPerGpu: tokensPerSecondPerGpu(sequences, tpotMs, 1),
    bytes,
    fits: fits(bytes, limits),
  };
}

/** The batch with the most tokens per second under `tpotMs` that fits in memory; undefined if none does. */
export function bestColocated(
  model: PlannedModel,
  times: StageTimes,
  load: Load,
  expertsPerGpu: number,
  tpotMs: number,
): ColocatedProjection | undefined {
  const most = Math.min(...[times.attention, times.experts, times.dense, times.head].map(measuredUpTo));
  let best: ColocatedProjection | undefined;
  for (let batch = BATCH_STEP; batch <= most; batch += BATCH_STEP) {
    const found = projectColocated(model, times, load, batch, expertsPerGpu);
    if (!found.fits || found.tpotMs > tpotMs) continue;
    if (best === undefined || found.tokensPerSecondPerGpu > best.tokensPerSecondPerGpu) best = found;
  }
  return best;
}
