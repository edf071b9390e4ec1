import type { Subscription } from "./bus.ts";
import { DUPLICATE_WINDOW_MS } from "./durable-limits.ts";
import type { DurableLog, LogEntry, LogOptions } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { ID_HEADER, readStored } from "./nats-checksum.ts";
import { Echoes } from "./nats-echo.ts";
import { nanos, type JetStream } from "./nats-jetstream.ts";
import { OrderedFollower } from "./nats-ordered.ts";
import { readOrdered } from "./nats-read.ts";
import { originalId, storeWhole } from "./nats-store-whole.ts";
import { checkSubject, matchesSubject } from "./subject.ts";

/** Refusals for numbers that were damaged on their way. */
const TRIES = 8;

/** A JetStream stream whose every subject is a log of its own. */
export class NatsLog implements DurableLog {
  readonly #jetStream: JetStream;
  readonly #options: LogOptions;
  readonly #echoes: Echoes;

  private constructor(jetStream: JetStream, options: LogOptions) {
    this.#jetStream = jetStream;
    this.#options = options;
    this.#echoes = new Echoes(jetStream.link);
  }

  static async open(jetStream: JetStream, options: LogOptions): Promise<NatsLog> {
    await jetStream.ensureStream({
      name: options.name,
      subjects: [options.subjects],
      retention: "limits",
      // Full means refused: dropping the oldest would cut the beginning off a log that somebody reads.
      discard: "new",
      max_age: nanos(options.maxAgeMs),
      max_bytes: options.maxBytes,
      duplicate_window: nanos(Math.min(DUPLICATE_WINDOW_MS, options.maxAgeMs)),
    });
    return new NatsLog(jetStream, options);
  }

  async append(
    subject: string,
    payload: Uint8Array,
    { id, expectedLastSeq }: { readonly id: string; readonly expectedLastSeq: number },
  ): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
    this.#check(subject);
    for (let [tries, expected] = [1, expectedLastSeq]; ; tries++) {
      try {
        const answer = await storeWhole(this.#jetStream, {
          stream: this.#options.name,
          subject,
          payload,
          id,
          headers: (afterSeq) => [["Nats-Expected-Last-Subject-Sequence", String(afterSeq ?? expected)]],
          echoes: this.#echoes,
        });
        this.#echoes.stored(subject, id, answer.seq);
        return answer;
      } catch (thrown) {
        const last = lastSeqIn(thrown);
        if (last === undefined || tries === TRIES) throw thrown;
        // That it was to follow this very entry, the server has read otherwise.
        if (last === expected) continue;
        // What was to be the last entry may be: its seq was damaged on its way back.
        const own = [id, this.#echoes.storedAt(subject, expectedLastSeq)];
        if (!own.includes(await this.#idAt(last))) throw thrown;
        expected = last;
      }
    }
  }

  async read(subject: string): Promise<LogEntry[]> {
    this.#check(subject);
    return await readOrdered(this.#jetStream, { stream: this.#options.name, subject, from: "first" });
  }

  async follow(subject: string, handler: (entry: LogEntry) => void): Promise<Subscription> {
    this.#check(subject);
    const options = { stream: this.#options.name, subject, from: "first" } as const;
    return await OrderedFollower.open(this.#jetStream, options, ({ seq, payload }) => handler({ seq, payload }));
  }

  async purge(subject: string): Promise<void> {
    this.#check(subject);
    await this.#jetStream.call(`STREAM.PURGE.${this.#options.name}`, { filter: subject });
  }

  async #idAt(seq: number): Promise<string> {
    const kept = await readStored(this.#jetStream, this.#options.name, seq);
    return originalId(kept?.message.header(ID_HEADER) ?? "");
  }

  #check(subject: string): void {
    checkSubject(subject);
    if (matchesSubject(this.#options.subjects, subject)) return;
    throw new RallyError("store-unavailable", `no log takes ${subject}`, { subject });
  }
}

/** Where the log ends, of a refusal to append elsewhere. */
function lastSeqIn(thrown: unknown): number | undefined {
  const { code, fields } = RallyError.from(thrown);
  const last = fields["lastSeq"];
  return code === "stale-owner" && typeof last === "number" ? last : undefined;
}
