import type { Clock } from "../../infra/clock.ts";
import type { TraceBuffer } from "../protocol/trace-buffer.ts";
import type { ExpertObserver } from "./expert.ts";

type Run = Parameters<ExpertObserver["ran"]>[0];

/** Adds up what an expert actor does and writes it to the trace. */
export class ExpertMeter implements ExpertObserver {
  readonly #clock: Clock;
  readonly #trace: TraceBuffer;
  readonly #warn: (text: string) => void;
  readonly #startedAt: number;
  #busyMs = 0;
  #batches = 0;
  #runs = 0;
  #rows = 0;
  #waitMs = 0;
  #badMessages = 0;

  constructor(options: { readonly clock: Clock; readonly trace: TraceBuffer; readonly warn: (text: string) => void }) {
    this.#clock = options.clock;
    this.#trace = options.trace;
    this.#warn = options.warn;
    this.#startedAt = options.clock.elapsed();
  }

  ran({ layer, microBatches, rows, from, to, waitMs }: Run): void {
    this.#busyMs += to - from;
    this.#batches += microBatches.length;
    this.#runs++;
    this.#rows += rows;
    this.#waitMs += waitMs;
    this.#trace.span(`experts ${layer}`, "expert", 0, from, to, { layer, rows, microBatches: microBatches.join(",") });
  }

  badMessage(reason: string): void {
    this.#badMessages++;
    this.#warn(`dropped a message: ${reason}`);
  }

  get sums() {
    return {
      elapsedMs: this.#clock.elapsed() - this.#startedAt,
      busyMs: this.#busyMs,
      batches: this.#batches,
      runs: this.#runs,
      rows: this.#rows,
      waitMs: this.#waitMs,
      badMessages: this.#badMessages,
    };
  }
}
