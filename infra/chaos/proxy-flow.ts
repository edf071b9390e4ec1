import type { Socket } from "node:net";
import type { Clock, Timer } from "../clock.ts";
import { FrameSplitter } from "./nats-frames.ts";
import { fateOf, type FlowDirection, type NetworkFault } from "./network-fault.ts";
import type { SeededRandom } from "./seeded.ts";

export interface FlowOptions {
  readonly direction: FlowDirection;
  readonly from: Socket;
  readonly to: Socket;
  readonly clock: Clock;
  readonly random: SeededRandom;
  /** The proxy's, as of now. */
  readonly faults: () => Iterable<NetworkFault>;
}

/** Beyond this the sender has to wait, as it would for a full network. */
const MAX_WAITING_BYTES = 8 << 20;

/** One direction of one connection, with whatever the faults make of it. */
export class ProxyFlow {
  readonly #options: FlowOptions;
  readonly #splitter = new FrameSplitter();
  readonly #queue: { readonly bytes: Uint8Array; readonly dueAt: number }[] = [];
  readonly #aside = new Set<Timer>();
  #waitingBytes = 0;
  #lastDueAt = 0;
  #timer: Timer | undefined;
  #ending = false;
  #closed = false;

  constructor(options: FlowOptions) {
    this.#options = options;
    const { from, to } = options;
    from.on("data", (chunk: Buffer) => this.#push(chunk));
    to.on("drain", () => this.#pump());
    from.on("end", () => {
      this.#ending = true;
      this.#pump();
    });
  }

  /** The faults have changed. */
  refresh(): void {
    if (this.#closed) return;
    if (this.#isPartitioned()) this.#options.from.pause();
    else this.#pump();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    for (const timer of this.#aside) timer.cancel();
    this.#aside.clear();
    this.#queue.length = 0;
  }

  #push(chunk: Uint8Array): void {
    const { clock, random } = this.#options;
    for (const frame of this.#splitter.push(chunk)) {
      const { copies, delayMs, bytesPerSecond, asideMs } = fateOf(frame, this.#active(), random);
      for (const bytes of copies) {
        if (asideMs !== undefined) {
          this.#standAside(bytes, asideMs);
          continue;
        }
        // Nothing overtakes on a TCP connection.
        const start = Math.max(clock.elapsed() + delayMs, this.#lastDueAt);
        const dueAt = start + (1000 * bytes.length) / bytesPerSecond;
        this.#lastDueAt = dueAt;
        this.#queue.push({ bytes, dueAt });
        this.#waitingBytes += bytes.length;
      }
    }
    this.#pump();
  }

  #pump(): void {
    if (this.#closed || this.#isPartitioned()) return;
    const { from, to, clock } = this.#options;
    this.#timer?.cancel();
    this.#timer = undefined;
    const now = clock.elapsed();
    to.cork();
    for (;;) {
      const next = this.#queue[0];
      if (next === undefined || next.dueAt > now || to.writableNeedDrain) break;
      this.#queue.shift();
      this.#waitingBytes -= next.bytes.length;
      to.write(next.bytes);
    }
    to.uncork();
    const next = this.#queue[0];
    if (next !== undefined && next.dueAt > now) this.#timer = clock.after(next.dueAt - now, () => this.#pump());
    if (this.#waitingBytes > MAX_WAITING_BYTES || to.writableNeedDrain) from.pause();
    else from.resume();
    if (this.#ending && this.#queue.length === 0) to.end();
  }

  #standAside(bytes: Uint8Array, ms: number): void {
    const timer = this.#options.clock.after(ms, () => {
      this.#aside.delete(timer);
      this.#queue.unshift({ bytes, dueAt: 0 });
      this.#waitingBytes += bytes.length;
      this.#pump();
    });
    this.#aside.add(timer);
  }

  #isPartitioned(): boolean {
    for (const { kind } of this.#active()) if (kind === "partition") return true;
    return false;
  }

  *#active(): Generator<NetworkFault> {
    for (const fault of this.#options.faults()) {
      if (fault.direction === undefined || fault.direction === this.#options.direction) yield fault;
    }
  }
}
