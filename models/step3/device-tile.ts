import { assert } from "../../infra/errors.ts";
import type { Binding } from "../../infra/native/binding.ts";
import type { Copy, NativeSession } from "../../infra/native/native-session.ts";
import type { NativeTensor } from "../../infra/native/native-tensor.ts";
import type { ModelConfig } from "../config.ts";
import { DEVICE_ROWS, PAGE_TOKENS } from "./device-graphs.ts";
import { type Mirror, mirror, releaseMirror } from "./device-rows.ts";

export interface TilePorts {
  readonly config: ModelConfig;
  /** One session and one KV pool per layer. */
  readonly layers: readonly NativeSession[];
  readonly pools: readonly NativeTensor[];
  /** Inputs that are the same for all layers and tiles. */
  readonly shared: Readonly<Record<string, NativeTensor>>;
}

/** Where a row's sequence has its keys, and how many tokens it attends to, itself included. */
export interface RowPlace {
  readonly pages: readonly number[];
  readonly length: number;
}

/** Where each of a tile's rows belongs. Padding has the length 0. */
export interface TileLayout {
  readonly table: Int32Array; // [DEVICE_ROWS, maxPages]
  readonly lengths: Int32Array; // [DEVICE_ROWS]
}

export function layoutTile({ contextLength }: ModelConfig, rows: readonly RowPlace[]): TileLayout {
  const maxPages = maxPagesOf(contextLength);
  const table = new Int32Array(DEVICE_ROWS * maxPages);
  const lengths = new Int32Array(DEVICE_ROWS);
  for (const [row, { pages, length }] of rows.entries()) {
    table.set(pages, row * maxPages);
    lengths[row] = length;
  }
  return { table, lengths };
}

function maxPagesOf(contextLength: number): number {
  return Math.ceil(contextLength / PAGE_TOKENS);
}

/** DEVICE_ROWS rows on their way through the layers: their memory on both sides, and each layer's run over it. */
export class DeviceTile {
  readonly #ports: TilePorts;
  /** CUDA graphs are told apart by it. */
  readonly #id: number;
  readonly #hidden: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #residual: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #ffnInput: Mirror; // [DEVICE_ROWS, hiddenSize]
  readonly #routerLogits: Mirror; // [DEVICE_ROWS, numExperts]
  readonly #pageTable: NativeTensor; // [DEVICE_ROWS, maxPages]
  readonly #lengths: NativeTensor; // [DEVICE_ROWS]
  readonly #runs: (Binding | undefined)[] = [];

  constructor(ports: TilePorts, id: number) {
    this.#ports = ports;
    this.#id = id;
    const { hiddenSize, numExperts, contextLength } = ports.config;
    const [session] = ports.layers;
    assert(session !== undefined, "a model has layers");
    this.#hidden = mirror(session, [DEVICE_ROWS, hiddenSize]);
    this.#residual = mirror(session, [DEVICE_ROWS, hiddenSize]);
    this.#ffnInput = mirror(session, [DEVICE_ROWS, hiddenSize]);
    this.#routerLogits = mirror(session, [DEVICE_ROWS, numExperts]);
    this.#pageTable = session.allocate("i32", [DEVICE_ROWS, maxPagesOf(contextLength)]);
    this.#lengths = session.allocate("i32", [DEVICE_ROWS]);
  }

  /** What runs from now on read keys by. */
  place({ table, lengths }: TileLayout): void {
    this.#pageTable.upload(table);
    this.#lengths.upload(lengths);
  }

  /** Views of the first `count` rows in the host's memory, which `run` reads and writes. */
  rows(count: number) {
    const { hiddenSize, numExperts } = this.#ports.config;
    const rows = ({ data }: Mirror, width: number) => data.subarray(0, count * width);
    return {
      hidden: rows(this.#hidden, hiddenSize),
      residual: rows(this.#residual, hiddenSize),
      ffnInput: rows(this.#ffnInput, hiddenSize),
      routerLogits: rows(this.#routerLogits, numExperts),
    };
  }

  /** Takes `hidden` through a layer's attention; through the whole of it, back to `hidden`, if it is dense. */
  run(layer: number): void {
    this.#runs[layer] ??= this.#bind(layer);
    this.#runs[layer].run();
  }

  release(): void {
    for (const run of this.#runs) run?.release();
    for (const each of [this.#hidden, this.#residual, this.#ffnInput, this.#routerLogits]) releaseMirror(each);
    for (const tensor of [this.#pageTable, this.#lengths]) tensor.release();
  }

  #bind(layer: number): Binding {
    const { config, layers, pools, shared } = this.#ports;
    const [session, pool] = [layers[layer], pools[layer]];
    assert(session !== undefined && pool !== undefined, `layer ${layer} exists`);
    const [hidden, residual, ffnInput, routerLogits] = [
      this.#hidden,
      this.#residual,
      this.#ffnInput,
      this.#routerLogits,
    ];
    const isDense = config.layerKinds[layer] === "dense";
    // Of a dense layer the residual's memory on the device takes the next layer's input, which goes back where `hidden` came from.
    const outputs = isDense
      ? { next_hidden: residual.device }
      : { residual: residual.device, ffn_input: ffnInput.device, router_logits: routerLogits.device };
    const back: readonly Copy[] = isDense
      ? [[residual.device, hidden.host]]
      : [residual, ffnInput, routerLogits].map(({ device, host }) => [device, host] as const);
    return session.bind(
      { ...shared, hidden: hidden.device, pool, page_table: this.#pageTable, lengths: this.#lengths },
      outputs,
      {
        runConfigs: { gpu_graph_id: String(this.#id) },
        before: [[hidden.host, hidden.device]],
        after: back,
      },
    );
  }
}
