import type { Clock } from "../../infra/clock.ts";
import type { TraceBuffer } from "../protocol/trace-buffer.ts";
import type { ComputeObserver } from "./engine-options.ts";
import type { HopObserver } from "./hop-observer.ts";

type Hop = Parameters<HopObserver["hop"]>[0];

/** Weight of the newest sample in the running means that choose the number of micro-batches. */
const SMOOTHING = 0.02;

/** Rows of the trace: 0 is what the engine computes, `WIRE + microBatch` what a micro-batch has on the way. */
export const WIRE_THREAD = 1;

/** Adds up where the engine's time goes, writes it to the trace, and derives the number of micro-batches worth having. */
export class EngineMeter implements ComputeObserver, HopObserver {
  readonly #trace: TraceBuffer;
  readonly #startedAt: number;
  readonly #clock: Clock;
  readonly #warn: (text: string) => void;
  #busyMs = 0;
  #bubbleMs = 0;
  #hops = 0;
  #hopBytes = 0;
  #hopWireMs = 0;
  #retries = 0;
  #badMessages = 0;
  #stageMs = 0;
  #wireMs = 0;

  constructor(options: { readonly clock: Clock; readonly trace: TraceBuffer; readonly warn: (text: string) => void }) {
    this.#clock = options.clock;
    this.#trace = options.trace;
    this.#warn = options.warn;
    this.#startedAt = options.clock.elapsed();
  }

  computed(what: "attention" | "shared" | "head", microBatch: number, layer: number, from: number, to: number): void {
    this.#busyMs += to - from;
    this.#trace.span(what === "head" ? "head" : `${what} ${layer}`, what, 0, from, to, { microBatch, layer });
  }

  waited(from: number, to: number): void {
    this.#bubbleMs += to - from;
    this.#trace.span("bubble", "bubble", 0, from, to);
  }

  hop(hop: Hop): void {
    const { microBatch, layer, shard, sentAt, answeredAt, expertMs, bytes } = hop;
    const wireMs = Math.max(0, answeredAt - sentAt - expertMs);
    this.#hops++;
    this.#hopBytes += bytes;
    this.#hopWireMs += wireMs;
    this.#stageMs = smooth(this.#stageMs, expertMs);
    this.#wireMs = smooth(this.#wireMs, wireMs / 2);
    this.#trace.span(`layer ${layer} shard ${shard}`, "wire", WIRE_THREAD + microBatch, sentAt, answeredAt, {
      microBatch,
      layer,
      shard,
      bytes,
      expertMs,
    });
  }

  retry(): void {
    this.#retries++;
  }

  badMessage(reason: string): void {
    this.#badMessages++;
    this.#warn(`dropped a message: ${reason}`);
  }

  /**
   * m ≥ 2(1 + Tc/Tf) keeps both sides busy, with Tc one way on the wire and Tf the experts' time for one micro-batch
   * (MegaScale-Infer §4.1); at least 2, at most `limit`.
   */
  microBatches(limit: number): number {
    if (this.#hops === 0 || this.#stageMs === 0) return Math.min(2, limit);
    return Math.max(1, Math.min(limit, Math.ceil(2 * (1 + this.#wireMs / this.#stageMs))));
  }

  get sums() {
    return {
      elapsedMs: this.#clock.elapsed() - this.#startedAt,
      busyMs: this.#busyMs,
      bubbleMs: this.#bubbleMs,
      hops: this.#hops,
      hopBytes: this.#hopBytes,
      hopWireMs: this.#hopWireMs,
      retries: this.#retries,
      badMessages: this.#badMessages,
    };
  }
}

function smooth(mean: number, sample: number): number {
  return mean === 0 ? sample : mean + SMOOTHING * (sample - mean);
}
