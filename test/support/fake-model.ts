import type { ModelConfig } from "../../models/config.ts";
import { KvCache, type KvSlots } from "../../models/kv-cache.ts";
import type {
  AttentionStages,
  FfnBatch,
  FfnShard,
  Pass,
  PassRequest,
  SharedExperts,
  ShardSpec,
} from "../../models/stages.ts";

/** A model small enough to follow by hand: each token is a hash of all tokens before it, made through the KV cache. */
export const fakeConfig: ModelConfig = {
  family: "step3",
  hiddenSize: 4,
  numLayers: 3,
  vocabSize: 97,
  contextLength: 192,
  rmsNormEps: 1e-5,
  numHeads: 1,
  headDim: 2,
  shareQDim: 4,
  ropeTheta: 10_000,
  layerKinds: ["moe", "moe", "moe"],
  numExperts: 4,
  topK: 2,
  expertDim: 4,
  sharedExpertDim: 4,
  denseDim: 4,
  bosTokenId: 0,
  eosTokenIds: [1],
};

/** Everything is an integer below this prime, or a quarter of one, so that f32 sums are exact in any order. */
const PRIME = 65_521;

interface FakePass extends Pass {
  readonly request: PassRequest;
}

/**
 * Reads and writes the KV cache as the real thing does, so that a wrong slot, position, chunk or stale view changes the tokens.
 * Buffers are reused from pass to pass of a cache, and the logits from call to call.
 */
export class FakeStages implements AttentionStages {
  readonly config: ModelConfig;
  /** Rows of every pass, in order. */
  readonly passes: { readonly numSequences: number; readonly chunk: number }[] = [];
  readonly attended: { readonly layer: number; readonly numTokens: number }[] = [];
  /** Layers that `attend` does the whole of; with the same results as experts would have. */
  whole: readonly number[] = [];
  released = false;
  /** Awaited within each attend; tests may hold or break it. */
  gate: (layer: number, pass: Pass) => Promise<void> | void = () => undefined;
  headGate: () => Promise<void> | void = () => undefined;
  /** May change the logits [numRows, vocabSize] before they are given out. */
  spoil: (logits: Float32Array, numRows: number) => void = () => undefined;
  readonly #buffers = new Map<KvSlots, Float32Array[]>();
  #logits = new Float32Array(0);

  constructor(config: ModelConfig = fakeConfig) {
    this.config = config;
  }

  createCache(maxSlots: number): KvCache {
    const { numLayers, contextLength: maxLength, headDim } = this.config;
    return new KvCache({ numLayers, maxSlots, maxLength, headDim });
  }

  plan(request: PassRequest): FakePass {
    const { hiddenSize, topK } = this.config;
    const numTokens = request.numSequences * request.chunk;
    if (request.tokenIds.length !== numTokens || request.pasts.length !== request.numSequences) {
      throw new Error("a pass has an id per row and a past per sequence");
    }
    if (request.firstSlot + request.numSequences > request.kv.maxSlots) throw new Error("slots beyond the cache");
    const size = numTokens * hiddenSize;
    const buffers = this.#buffers.get(request.kv) ?? [];
    if ((buffers[0]?.length ?? 0) < size) {
      for (let i = 0; i < 3; i++) buffers[i] = new Float32Array(size);
      this.#buffers.set(request.kv, buffers);
    }
    const [hidden, residual, ffnInput] = buffers.map((buffer) => buffer.subarray(0, size)) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    for (const [row, id] of request.tokenIds.entries()) hidden.fill(id + 1, row * hiddenSize, (row + 1) * hiddenSize);
    this.passes.push({ numSequences: request.numSequences, chunk: request.chunk });
    return {
      request,
      numTokens,
      hidden,
      residual,
      ffnInput,
      expertIds: new Int32Array(numTokens * topK),
      expertWeights: new Float32Array(numTokens * topK),
    };
  }

  completes(layer: number): boolean {
    return this.whole.includes(layer);
  }

  async attend(pass: Pass, layer: number): Promise<void> {
    await this.gate(layer, pass);
    this.attended.push({ layer, numTokens: pass.numTokens });
    const { firstSlot, numSequences, chunk, pasts } = (pass as FakePass).request;
    const kv = (pass as FakePass).request.kv as KvCache;
    const { keys, values } = kv.view(layer, firstSlot, numSequences);
    for (let s = 0; s < numSequences; s++) {
      for (let c = 0; c < chunk; c++)
        this.#attendRow(pass, layer, s * chunk + c, { keys, values, kv, s, position: (pasts[s] as number) + c });
    }
  }

  async head(pass: Pass, rows: readonly number[]): Promise<Float32Array> {
    await this.headGate();
    const { hiddenSize, vocabSize } = this.config;
    if (this.#logits.length < rows.length * vocabSize) this.#logits = new Float32Array(rows.length * vocabSize);
    for (const [i, row] of rows.entries()) {
      const state = hash(pass.hidden[row * hiddenSize] as number, 17);
      for (let id = 0; id < vocabSize; id++) this.#logits[i * vocabSize + id] = hash(state * (id + 3), 5) / 6553;
    }
    this.spoil(this.#logits, rows.length);
    return this.#logits;
  }

  async release(): Promise<void> {
    this.released = true;
  }

  #attendRow(
    pass: Pass,
    layer: number,
    row: number,
    at: {
      readonly keys: Float32Array;
      readonly values: Float32Array;
      readonly kv: KvCache;
      readonly s: number;
      readonly position: number;
    },
  ): void {
    const { hiddenSize, headDim, topK, numExperts } = this.config;
    const { keys, values, kv, s, position } = at;
    const state = hash(pass.hidden[row * hiddenSize] as number, layer);
    const base = s * kv.stride * headDim;
    keys[base + position * headDim] = hash(state + 31 * position, 3);
    values[base + position * headDim + 1] = hash(state + position, 11);
    let sum = 0;
    for (let p = 0; p <= position; p++) {
      const [key, value] = [keys[base + p * headDim] as number, values[base + p * headDim + 1] as number];
      sum = (sum * 131 + key * 3 + value) % PRIME;
    }
    for (let h = 0; h < hiddenSize; h++) {
      pass.residual[row * hiddenSize + h] = sum;
      pass.ffnInput[row * hiddenSize + h] = (sum + 7 * h) % 4096;
    }
    for (let k = 0; k < topK; k++) {
      pass.expertIds[row * topK + k] = (sum + k * 3) % numExperts;
      pass.expertWeights[row * topK + k] = 0.5 / (k + 1);
    }
    if (!this.completes(layer)) return;
    for (let h = row * hiddenSize; h < (row + 1) * hiddenSize; h++) {
      pass.hidden[h] = (pass.residual[h] as number) + ffnOf(this.config, { layer, ...pass, hidden: pass.ffnInput }, h);
    }
  }
}

/** Any number to an integer below PRIME. Quarters count. */
function hash(value: number, salt: number): number {
  return ((Math.round(value * 4) % PRIME) * 251 + salt * 7919) % PRIME;
}

export function fakeSpecs(numShards: number, config: ModelConfig = fakeConfig, withoutShared = false): ShardSpec[] {
  return Array.from({ length: numShards }, (_, shard) => ({
    shard,
    numShards,
    withoutShared,
    experts: Array.from({ length: config.numExperts }, (__, id) => id).filter((id) => id % numShards === shard),
  }));
}

/** One element of a layer's FFN: all of it, or a shard's share. */
function ffnOf({ hiddenSize, topK }: ModelConfig, batch: FfnBatch, at: number, spec?: ShardSpec): number {
  const { layer, hidden, expertIds, expertWeights } = batch;
  const x = hidden[at] as number;
  let sum = spec === undefined || (spec.shard === 0 && spec.withoutShared !== true) ? x + layer : 0;
  for (let route = Math.floor(at / hiddenSize) * topK, end = route + topK; route < end; route++) {
    const expert = expertIds[route] as number;
    if (spec?.experts.includes(expert) === false) continue;
    sum += (expertWeights[route] as number) * (expert + 1) * ((x + expert) % 64);
  }
  return sum;
}

/** Exact for any number of shards: all terms are integers or quarters. */
export class FakeShard implements FfnShard {
  readonly spec: ShardSpec;
  readonly batches: { readonly layer: number; readonly numTokens: number }[] = [];
  gate: (batch: FfnBatch) => Promise<void> | void = () => undefined;
  readonly #config: ModelConfig;

  constructor(spec: ShardSpec, config: ModelConfig = fakeConfig) {
    this.spec = spec;
    this.#config = config;
  }

  async forward(batch: FfnBatch, output: Float32Array): Promise<void> {
    this.batches.push({ layer: batch.layer, numTokens: batch.numTokens });
    await this.gate(batch);
    for (let at = 0; at < batch.numTokens * this.#config.hiddenSize; at++) {
      output[at] = ffnOf(this.#config, batch, at, this.spec);
    }
  }

  async release(): Promise<void> {}
}

/** What shards without a shared expert leave out. */
export class FakeShared implements SharedExperts {
  readonly layers: number[] = [];
  gate: () => Promise<void> | void = () => undefined;

  async forward({ ffnInput, residual }: Pass, layer: number, output: Float32Array): Promise<void> {
    this.layers.push(layer);
    await this.gate();
    for (let at = 0; at < output.length; at++) output[at] = (residual[at] as number) + (ffnInput[at] as number) + layer;
  }

  async release(): Promise<void> {}
}
