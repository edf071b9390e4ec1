import type { Clock } from "../../infra/clock.ts";
import type { TraceEvent } from "./role.ts";

/** About a minute of a busy actor; older events go first. */
const MAX_EVENTS = 100_000;

/** Collects trace events of one process; costs nothing when tracing is off. */
export class TraceBuffer {
  readonly #enabled: boolean;
  readonly #processId: number;
  /** Unix time in µs at `elapsed() = 0`: puts all processes of one machine on one time axis. */
  readonly #originUs: number;
  readonly #names: TraceEvent[] = [];
  #events: TraceEvent[] = [];

  constructor(options: { readonly enabled: boolean; readonly clock: Clock; readonly processId: number }) {
    this.#enabled = options.enabled;
    this.#processId = options.processId;
    this.#originUs = (options.clock.now() - options.clock.elapsed()) * 1000;
  }

  /** `thread` is one row in the viewer. Times in milliseconds of `clock.elapsed()`. */
  span(name: string, cat: string, thread: number, from: number, to: number, args: TraceEvent["args"] = {}): void {
    if (!this.#enabled) return;
    if (this.#events.length >= MAX_EVENTS) this.#events = this.#events.slice(MAX_EVENTS / 2);
    this.#events.push({
      name,
      cat,
      ph: "X",
      ts: this.#originUs + from * 1000,
      dur: (to - from) * 1000,
      pid: this.#processId,
      tid: thread,
      args,
    });
  }

  /** Names this process and its rows in the viewer. */
  name(processName: string, threads: Readonly<Record<number, string>>): void {
    if (!this.#enabled) return;
    const meta = { cat: "__metadata", ph: "M", ts: 0, dur: 0, pid: this.#processId } as const;
    this.#names.push({ ...meta, name: "process_name", tid: 0, args: { name: processName } });
    for (const [thread, name] of Object.entries(threads)) {
      this.#names.push({ ...meta, name: "thread_name", tid: Number(thread), args: { name } });
    }
  }

  take(): readonly TraceEvent[] {
    const events = [...this.#names, ...this.#events];
    this.#events = [];
    return events;
  }
}
