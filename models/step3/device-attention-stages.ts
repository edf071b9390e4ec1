import path from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Binding } from "../../infra/native/binding.ts";
import type { ElementType } from "../../infra/native/elements.ts";
import type { NativeSession } from "../../infra/native/native-session.ts";
import type { NativeTensor } from "../../infra/native/native-tensor.ts";
import { assert } from "../../infra/errors.ts";
import type { ModelConfig } from "../config.ts";
import type { AttentionStages, Pass, PassRequest } from "../stages.ts";
import { HEAD_ROWS, PAGE_TOKENS } from "./device-graphs.ts";
import { type Mirror, mirror } from "./device-rows.ts";
import { DeviceTile, layoutTile, type RowPlace, type TileLayout } from "./device-tile.ts";
import { PassBuffers } from "./pass-buffers.ts";
import { PagedCache, PagePool } from "./page-pool.ts";
import { Rope } from "./rope.ts";
import { route } from "./route.ts";
import { tileCounts } from "./tile-counts.ts";
import { DEVICE_HEAD_GRAPH, deviceLayerGraph } from "./write-graphs.ts";

export interface DeviceAttentionOptions {
  readonly config: ModelConfig;
  /** Folder of `writeDeviceAttentionGraphs`. */
  readonly graphDir: string;
  /** [vocabSize, hiddenSize] */
  readonly embedding: Float32Array;
  /** With the operators of `models/kernels`. */
  readonly open: (graphFile: string) => NativeSession;
  readonly layout: DeviceLayout;
  /** Tokens that all caches together hold at most, in so many sequences. */
  readonly kvRoom: { readonly numTokens: number; readonly numSequences: number };
}

/** What the graphs' operators keep in the device's memory besides weights. */
export interface DeviceLayout {
  /** Of the KV pool. */
  readonly type: ElementType;
  /** Of one page. */
  readonly pageDims: readonly number[];
  /** Inputs of this name, of so many bytes, are all layers'. */
  readonly workspaces: Readonly<Record<string, number>>;
  /** Whether the first token of a page wipes the page, so that no other of that page may be in the same run. */
  readonly wipesPages: boolean;
}

/** As `f32-attention.h` has pages: keys, then values. */
export function f32Layout({ headDim }: ModelConfig): DeviceLayout {
  return { type: "f32", pageDims: [2, PAGE_TOKENS, headDim], workspaces: {}, wipesPages: false };
}

interface DevicePass extends Pass {
  readonly routerLogits: Float32Array; // [numTokens, numExperts]
  readonly tile: DeviceTile;
  /** Of a pass in more than one tile, which go through the same one: each is laid out anew for each layer. */
  readonly parts: readonly PassPart[];
}

/** Rows `first` … `first + count - 1` of a pass. */
interface PassPart {
  readonly layout: TileLayout;
  readonly first: number;
  readonly count: number;
}

/**
 * Attention with keys and values in the device's memory: only hidden states, FFN inputs and router logits cross. Rows go through in
 * tiles of one size, so the promise of `AttentionStages` holds here too; against the CPU the last bits differ.
 */
export class DeviceAttentionStages implements AttentionStages {
  readonly config: ModelConfig;
  readonly pages: PagePool;
  readonly #embedding: Float32Array;
  readonly #wipesPages: boolean;
  readonly #layers: readonly NativeSession[];
  readonly #pools: readonly NativeTensor[]; // [numPages, ...pageDims] each
  readonly #workspaces: Readonly<Record<string, NativeTensor>>;
  readonly #cosSin: NativeTensor;
  readonly #head: NativeSession;
  readonly #headRows: Mirror;
  readonly #headLogits: Mirror;
  readonly #headRun: Binding;
  /** A cache has one pass at a time, whose rows may stay in a tile of its own from layer to layer. */
  readonly #tileOf = new WeakMap<PagedCache, DeviceTile>();
  /** Every tile has a CUDA graph per layer, so passes in more than one tile share this one, and are moved in and out. */
  #sharedTile: DeviceTile | undefined;
  readonly #tiles: DeviceTile[] = [];
  readonly #buffers = new WeakMap<PagedCache, PassBuffers>();
  #logits = new Float32Array(0);

  constructor({ config, graphDir, embedding, open, layout, kvRoom }: DeviceAttentionOptions) {
    this.config = config;
    this.#embedding = embedding;
    this.#wipesPages = layout.wipesPages;
    const { contextLength, headDim, hiddenSize, vocabSize } = config;
    // Every sequence may leave most of a page unused.
    const numPages = Math.ceil(Math.max(kvRoom.numTokens, contextLength) / PAGE_TOKENS) + kvRoom.numSequences;
    this.pages = new PagePool(numPages);
    this.#layers = config.layerKinds.map((_, layer) => open(path.join(graphDir, deviceLayerGraph(layer))));
    const zeroed = (session: NativeSession, type: ElementType, dims: readonly number[]) => {
      const tensor = session.allocate(type, dims);
      tensor.fillWith(new Uint8Array(8));
      return tensor;
    };
    this.#pools = this.#layers.map((session) => zeroed(session, layout.type, [numPages, ...layout.pageDims]));
    this.#head = open(path.join(graphDir, DEVICE_HEAD_GRAPH));
    this.#workspaces = Object.fromEntries(
      Object.entries(layout.workspaces).map(([name, bytes]) => [name, zeroed(this.#head, "u8", [bytes])]),
    );
    this.#cosSin = this.#head.allocate("f32", [contextLength, headDim / 2, 2]);
    this.#cosSin.upload(new Rope(config).pairs());
    this.#headRows = mirror(this.#head, [HEAD_ROWS, hiddenSize]);
    this.#headLogits = mirror(this.#head, [HEAD_ROWS, vocabSize]);
    this.#headRun = this.#head.bind(
      { hidden: this.#headRows.device },
      { logits: this.#headLogits.device },
      {
        runConfigs: { gpu_graph_id: "1" },
        before: [[this.#headRows.host, this.#headRows.device]],
        after: [[this.#headLogits.device, this.#headLogits.host]],
      },
    );
  }

  createCache(maxSlots: number): PagedCache {
    return new PagedCache(this.pages, { maxSlots, maxLength: this.config.contextLength });
  }

  plan(request: PassRequest): DevicePass {
    const { numSequences, chunk, pasts, tokenIds, firstSlot } = request;
    const kv = request.kv as PagedCache;
    const { hiddenSize, numExperts, topK } = this.config;
    const numTokens = numSequences * chunk;
    assert(numTokens > 0 && tokenIds.length === numTokens, `${tokenIds.length} ids for ${numTokens} tokens`);
    const pages = pasts.map((past, i) => kv.pages(firstSlot + i, past + chunk));
    const places = Array.from({ length: numTokens }, (_, token): RowPlace => {
      const sequence = Math.floor(token / chunk);
      return { pages: pages[sequence] ?? [], length: (pasts[sequence] ?? 0) + (token % chunk) + 1 };
    });
    let end = 0;
    const parts = tileCounts(request, this.#wipesPages).map((count): PassPart => {
      const first = end;
      end += count;
      return { layout: layoutTile(this.config, places.slice(first, end)), first, count };
    });
    const [only] = parts;
    assert(only !== undefined, "a pass has rows");
    const isOne = parts.length === 1;
    const tile = isOne ? this.#ownTile(kv) : (this.#sharedTile ??= this.#createTile());
    if (isOne) tile.place(only.layout);
    const buffers = this.#buffersOf(kv);
    const arrays = isOne
      ? tile.rows(numTokens)
      : {
          hidden: buffers.take("hidden", numTokens * hiddenSize),
          residual: buffers.take("residual", numTokens * hiddenSize),
          ffnInput: buffers.take("ffnInput", numTokens * hiddenSize),
          routerLogits: buffers.take("routerLogits", numTokens * numExperts),
        };
    this.#embed(tokenIds, arrays.hidden);
    return {
      numTokens,
      tile,
      parts,
      ...arrays,
      expertIds: new Int32Array(numTokens * topK),
      expertWeights: new Float32Array(numTokens * topK),
    };
  }

  completes(layer: number): boolean {
    return this.config.layerKinds[layer] === "dense";
  }

  async attend(pass: Pass, layer: number): Promise<void> {
    const own = pass as DevicePass;
    const { tile, parts } = own;
    if (parts.length === 1) tile.run(layer);
    else {
      for (const part of parts) {
        tile.place(part.layout);
        this.#move(own, part, "in", layer);
        tile.run(layer);
        this.#move(own, part, "out", layer);
      }
    }
    if (this.completes(layer)) return;
    const { numExperts, topK } = this.config;
    route(own.routerLogits, numExperts, topK, own.expertIds, own.expertWeights);
  }

  async head(pass: Pass, rows: readonly number[]): Promise<Float32Array> {
    const { hiddenSize, vocabSize } = this.config;
    const length = rows.length * vocabSize;
    if (this.#logits.length < length) this.#logits = new Float32Array(length);
    for (let first = 0; first < rows.length; first += HEAD_ROWS) {
      const some = rows.slice(first, first + HEAD_ROWS);
      for (const [i, row] of some.entries()) {
        this.#headRows.data.set(pass.hidden.subarray(row * hiddenSize, (row + 1) * hiddenSize), i * hiddenSize);
      }
      this.#headRun.run();
      this.#logits.set(this.#headLogits.data.subarray(0, some.length * vocabSize), first * vocabSize);
    }
    // No stage ever waits. Once per pass the event loop gets a turn, so that a loop over local stages cannot starve it.
    await setImmediate();
    return this.#logits.subarray(0, length);
  }

  async release(): Promise<void> {
    this.#headRun.release();
    for (const { device, host } of [this.#headRows, this.#headLogits]) {
      device.release();
      host.release();
    }
    const tensors = [...this.#pools, ...Object.values(this.#workspaces), this.#cosSin];
    for (const each of [...this.#tiles, ...tensors, ...this.#layers, this.#head]) each.release();
  }

  #ownTile(kv: PagedCache): DeviceTile {
    const tile = this.#tileOf.get(kv) ?? this.#createTile();
    this.#tileOf.set(kv, tile);
    return tile;
  }

  #createTile(): DeviceTile {
    const shared = { cos_sin: this.#cosSin, ...this.#workspaces };
    const ports = { config: this.config, layers: this.#layers, pools: this.#pools, shared };
    const tile = new DeviceTile(ports, this.#tiles.length + 1);
    this.#tiles.push(tile);
    return tile;
  }

  #buffersOf(kv: PagedCache): PassBuffers {
    const buffers = this.#buffers.get(kv) ?? new PassBuffers();
    this.#buffers.set(kv, buffers);
    return buffers;
  }

  /** Between the pass's own arrays and its tile's. */
  #move(pass: DevicePass, { first, count }: PassPart, way: "in" | "out", layer: number): void {
    const { hiddenSize, numExperts } = this.config;
    const { hidden, residual, ffnInput, routerLogits } = pass.tile.rows(count);
    const at = first * hiddenSize;
    if (way === "in") hidden.set(pass.hidden.subarray(at, at + hidden.length));
    else if (this.completes(layer)) pass.hidden.set(hidden, at);
    else {
      pass.residual.set(residual, at);
      pass.ffnInput.set(ffnInput, at);
      pass.routerLogits.set(routerLogits, first * numExperts);
    }
  }

  /** Fills `hidden` [tokenIds.length, hiddenSize]. */
  #embed(tokenIds: readonly number[], hidden: Float32Array): void {
    const { hiddenSize, vocabSize } = this.config;
    for (const [i, id] of tokenIds.entries()) {
      assert(id >= 0 && id < vocabSize, `token ${id} is in the vocabulary`);
      hidden.set(this.#embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize), i * hiddenSize);
    }
  }
}
