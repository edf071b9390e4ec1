import type { KvKind, PlannedModel } from "./planned-model.ts";

/** Of one GPU. */
export interface GpuLimits {
  readonly gpuBytes: number;
  /** For activations, workspaces, graphs and the CUDA context. */
  readonly reservedBytes: number;
  /** Of its own network adapter, in each direction. */
  readonly networkGbps: number;
}

/** An H100 sold as 80 GB, with an adapter of 400 Gb/s for each GPU. */
export const H100_80GB: GpuLimits = { gpuBytes: 80e9, reservedBytes: 4e9, networkGbps: 400 };

/** Tokens of a KV page. */
const PAGE_TOKENS = 64;

/** KV pages of every sequence at its full context, in every layer. */
export function kvBytes(model: PlannedModel, kv: KvKind, numSequences: number, contextLength: number): number {
  const tokens = Math.ceil(contextLength / PAGE_TOKENS) * PAGE_TOKENS;
  return numSequences * tokens * model.kvBytesPerToken[kv] * numLayersOf(model);
}

/** Embedding, head and the attention weights of all layers, as one attention GPU holds them. */
export function attentionWeightBytes(model: PlannedModel): number {
  return model.edgeBytes + numLayersOf(model) * model.attentionBytesPerLayer;
}

/** Routed and shared experts of all MoE layers, and the dense layers whole, as one GPU holds them. */
export function ffnWeightBytes(model: PlannedModel, expertsPerGpu: number): number {
  return model.numMoeLayers * expertsPerGpu * model.expertBytes + model.numDenseLayers * model.denseBytes;
}

export function numLayersOf(model: PlannedModel): number {
  return model.numMoeLayers + model.numDenseLayers;
}

export function fits(bytes: number, { gpuBytes, reservedBytes }: GpuLimits): boolean {
  return bytes + reservedBytes <= gpuBytes;
}
