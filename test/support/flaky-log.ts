import type { Subscription } from "../../infra/bus.ts";
import type { DurableLog, LogEntry } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";

type Fate = "fine" | "lost" | "unanswered" | Promise<unknown>;

/** A log whose appends meet the fates a test deals out: lost on the way, stored but unanswered, or held until a promise resolves. */
export class FlakyLog implements DurableLog {
  readonly #log: DurableLog;
  /** Awaited before each use. */
  readonly #running: () => Promise<void>;
  readonly appends: { readonly id: string; readonly expectedLastSeq: number }[] = [];
  fates: Fate[] = [];
  /** Thrown by every read while set. */
  readError: RallyError | undefined;

  constructor(log: DurableLog, running: () => Promise<void> = async () => undefined) {
    this.#log = log;
    this.#running = running;
  }

  async append(
    subject: string,
    payload: Uint8Array,
    options: { readonly id: string; readonly expectedLastSeq: number },
  ): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
    await this.#running();
    this.appends.push(options);
    const fate = this.fates.shift() ?? "fine";
    if (fate === "lost") throw new RallyError("timeout", "no answer");
    if (fate instanceof Promise) await fate;
    const answer = await this.#log.append(subject, payload, options);
    if (fate === "unanswered") throw new RallyError("timeout", "no answer");
    return answer;
  }

  async read(subject: string): Promise<LogEntry[]> {
    await this.#running();
    if (this.readError !== undefined) throw this.readError;
    const entries = await this.#log.read(subject);
    await this.#running();
    return entries;
  }

  follow(subject: string, handler: (entry: LogEntry) => void): Promise<Subscription> {
    return this.#log.follow(subject, handler);
  }

  purge(subject: string): Promise<void> {
    return this.#log.purge(subject);
  }
}
