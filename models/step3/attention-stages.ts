import path from "node:path";
import { assert } from "../../infra/errors.ts";
import type { OpenSession, Session, SessionTensors } from "../../infra/session.ts";
import type { ModelConfig } from "../config.ts";
import { KvCache } from "../kv-cache.ts";
import type { AttentionStages, Pass, PassRequest } from "../stages.ts";
import { attendGraph, CORE_GRAPH, HEAD_GRAPH, projectGraph } from "./attention-graphs.ts";
import { type PassLayer, planPass, type Step3Pass } from "./pass.ts";
import { PassBuffers } from "./pass-buffers.ts";
import { Rope } from "./rope.ts";
import { route } from "./route.ts";
import type { Step3Request } from "./sequence-run.ts";

export interface Step3AttentionOptions {
  readonly config: ModelConfig;
  /** Folder of `writeAttentionGraphs`. */
  readonly graphDir: string;
  /** [vocabSize, hiddenSize] */
  readonly embedding: Float32Array;
  readonly openSession: OpenSession;
  readonly numThreads: number;
  /** For dense layers and the head. */
  readonly numThreadsAlone: number;
}

/** One layer's two graphs; between them the new keys and values enter the cache. */
interface Layer {
  readonly project: Session;
  readonly attend: Session;
}

export class Step3AttentionStages implements AttentionStages {
  readonly config: ModelConfig;
  readonly #embedding: Float32Array;
  readonly #layers: readonly Layer[];
  readonly #core: Session;
  readonly #head: Session;
  readonly #rope: Rope;
  /** A KV cache has one pass at a time, so that is who its buffers belong to, and its last pass. */
  readonly #passes = new WeakMap<KvCache, { readonly buffers: PassBuffers; last?: Step3Pass }>();
  #headRows = new Float32Array(0);
  #logits = new Float32Array(0);

  constructor(options: Step3AttentionOptions) {
    const { config, graphDir, embedding, openSession, numThreads, numThreadsAlone } = options;
    this.config = config;
    this.#embedding = embedding;
    this.#rope = new Rope(config);
    const open = (graph: string, threads: number) => openSession(path.join(graphDir, graph), { numThreads: threads });
    this.#layers = config.layerKinds.map((kind, layer) => {
      const threads = kind === "dense" ? numThreadsAlone : numThreads;
      return { project: open(projectGraph(layer), threads), attend: open(attendGraph(layer), threads) };
    });
    this.#core = open(CORE_GRAPH, numThreads);
    this.#head = open(HEAD_GRAPH, numThreadsAlone);
  }

  createCache(maxSlots: number): KvCache {
    const { numLayers, contextLength: maxLength, headDim } = this.config;
    return new KvCache({ numLayers, maxSlots, maxLength, headDim });
  }

  plan(asked: PassRequest): Pass {
    const request = asked as Step3Request;
    const { kv, numSequences, chunk, pasts, tokenIds } = request;
    const numTokens = numSequences * chunk;
    assert(numTokens > 0 && tokenIds.length === numTokens, `${tokenIds.length} ids for ${numTokens} tokens`);
    assert(
      pasts.every((past) => past + chunk <= kv.stride),
      "the KV cache has room for the chunk",
    );
    const passes = this.#passesOf(kv);
    const { config } = this;
    const pass = planPass({ config, session: this.#core, buffers: passes.buffers }, request, passes.last);
    passes.last = pass;
    this.#embed(tokenIds, pass.hidden);
    return pass;
  }

  completes(layer: number): boolean {
    return this.config.layerKinds[layer] === "dense";
  }

  async attend(pass: Pass, layer: number): Promise<void> {
    const { project, attend } = this.#layer(layer);
    const own = pass as Step3Pass;
    project.run(own.projectFeeds, own.projectFetches);
    this.#extendCache(own, layer);
    const kind = this.config.layerKinds[layer] ?? "dense";
    this.#attend(own, layer, attend, kind);
    if (kind === "dense") {
      own.hidden.set(own.residual);
      return;
    }
    const { numExperts, topK } = this.config;
    route(own.routerLogits, numExperts, topK, own.expertIds, own.expertWeights);
  }

  async head(pass: Pass, rows: readonly number[]): Promise<Float32Array> {
    const { hiddenSize, vocabSize } = this.config;
    const [hiddenLength, logitsLength] = [rows.length * hiddenSize, rows.length * vocabSize];
    if (this.#logits.length < logitsLength) {
      this.#headRows = new Float32Array(hiddenLength);
      this.#logits = new Float32Array(logitsLength);
    }
    for (const [i, row] of rows.entries()) {
      this.#headRows.set(pass.hidden.subarray(row * hiddenSize, (row + 1) * hiddenSize), i * hiddenSize);
    }
    const logits = this.#logits.subarray(0, logitsLength);
    const hidden = this.#head.tensor(this.#headRows.subarray(0, hiddenLength), [rows.length, hiddenSize]);
    this.#head.run({ hidden }, { logits: this.#head.tensor(logits, [rows.length, vocabSize]) });
    return logits;
  }

  async release(): Promise<void> {
    for (const { project, attend } of this.#layers) {
      project.release();
      attend.release();
    }
    this.#core.release();
    this.#head.release();
  }

  #attend({ apart, layers, attendFetches }: Step3Pass, layer: number, attend: Session, kind: "dense" | "moe"): void {
    const { runFeeds, attendFeeds } = layers[layer] as PassLayer;
    if (apart !== undefined) {
      for (const [i, fetches] of apart.fetches.entries()) this.#core.run(runFeeds[i] as SessionTensors, fetches);
    }
    attend.run(attendFeeds, attendFetches[kind]);
  }

  /** Rotates the chunk's queries and moves its rotated keys and its values into the cache. */
  #extendCache({ request, rawQuery, query, keyValue, layers }: Step3Pass, layer: number): void {
    const { kv, numSequences, chunk, pasts } = request;
    const { numHeads, headDim } = this.config;
    const { keys, values } = layers[layer] as PassLayer;
    const queryWidth = numHeads * headDim;
    for (let sequence = 0, token = 0; sequence < numSequences; sequence++) {
      const past = pasts[sequence] as number;
      for (let i = 0; i < chunk; i++, token++) {
        const at = (sequence * kv.stride + past + i) * headDim;
        const from = token * 2 * headDim;
        this.#rope.rotate(past + i, numHeads, rawQuery, token * queryWidth, query, token * queryWidth);
        this.#rope.rotate(past + i, 1, keyValue, from, keys, at);
        for (let d = 0; d < headDim; d++) values[at + d] = keyValue[from + headDim + d] as number;
      }
    }
  }

  #passesOf(kv: KvCache) {
    let passes = this.#passes.get(kv);
    if (passes === undefined) {
      passes = { buffers: new PassBuffers() };
      this.#passes.set(kv, passes);
    }
    return passes;
  }

  /** Fills `hidden` [tokenIds.length, hiddenSize]. */
  #embed(tokenIds: readonly number[], hidden: Float32Array): void {
    const { hiddenSize, vocabSize } = this.config;
    for (let i = 0; i < tokenIds.length; i++) {
      const id = tokenIds[i] as number;
      assert(id >= 0 && id < vocabSize, `token ${id} is in the vocabulary`);
      hidden.set(this.#embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize), i * hiddenSize);
    }
  }

  #layer(layer: number): Layer {
    const found = this.#layers[layer];
    assert(found !== undefined, `layer ${layer} exists`);
    return found;
  }
}
