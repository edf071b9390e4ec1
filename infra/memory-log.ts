import type { Subscription } from "./bus.ts";
import type { Clock } from "./clock.ts";
import { RETRY_AFTER_MS } from "./durable-limits.ts";
import type { DurableLog, LogEntry, LogOptions } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { DuplicateWindow } from "./memory-dedup.ts";
import { Feed } from "./memory-feed.ts";
import { checkSubject, matchesSubject } from "./subject.ts";

interface StoredEntry extends LogEntry {
  readonly at: number;
}

interface SubjectLog {
  entries: StoredEntry[];
  readonly feed: Feed<LogEntry>;
}

export class MemoryLog implements DurableLog {
  #options: LogOptions;
  readonly #clock: Clock;
  readonly #checkUp: () => void;
  readonly #seen: DuplicateWindow;
  readonly #logs = new Map<string, SubjectLog>();
  #lastSeq = 0;
  #bytes = 0;
  /** Until then nothing is too old. */
  #expiresAt = Infinity;

  /** `checkUp` throws while the store is out of reach. */
  constructor(options: LogOptions, clock: Clock, checkUp: () => void) {
    this.#options = options;
    this.#clock = clock;
    this.#checkUp = checkUp;
    this.#seen = new DuplicateWindow(clock);
  }

  configure(options: LogOptions): void {
    this.#options = options;
    this.#expiresAt = 0;
  }

  async append(
    subject: string,
    payload: Uint8Array,
    { id, expectedLastSeq }: { readonly id: string; readonly expectedLastSeq: number },
  ): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
    const log = this.#open(subject);
    const first = this.#seen.find(id);
    if (first !== undefined) return { seq: first, duplicate: true };
    const lastSeq = log.entries.at(-1)?.seq ?? 0;
    if (lastSeq !== expectedLastSeq) {
      throw new RallyError("stale-owner", `${subject} ends at ${lastSeq}, not at ${expectedLastSeq}`, {
        subject,
        expectedLastSeq,
        lastSeq,
      });
    }
    if (this.#bytes + payload.length > this.#options.maxBytes) {
      throw new RallyError("store-unavailable", `log ${this.#options.name} holds ${this.#bytes} bytes and is full`, {
        limit: this.#options.maxBytes,
        retryAfterMs: RETRY_AFTER_MS,
      });
    }
    const entry: StoredEntry = { seq: ++this.#lastSeq, payload: new Uint8Array(payload), at: this.#clock.elapsed() };
    this.#bytes += payload.length;
    this.#expiresAt = Math.min(this.#expiresAt, entry.at + this.#options.maxAgeMs);
    this.#seen.remember(id, entry.seq);
    log.entries.push(entry);
    log.feed.push({ seq: entry.seq, payload: entry.payload });
    return { seq: entry.seq, duplicate: false };
  }

  async read(subject: string): Promise<LogEntry[]> {
    return this.#open(subject).entries.map(({ seq, payload }) => ({ seq, payload: new Uint8Array(payload) }));
  }

  async follow(subject: string, handler: (entry: LogEntry) => void): Promise<Subscription> {
    const { entries, feed } = this.#open(subject);
    return feed.follow(entries, ({ seq, payload }) => handler({ seq, payload: new Uint8Array(payload) }));
  }

  async purge(subject: string): Promise<void> {
    const log = this.#open(subject);
    for (const { payload } of log.entries) this.#bytes -= payload.length;
    log.entries = [];
  }

  #open(subject: string): SubjectLog {
    this.#checkUp();
    checkSubject(subject);
    if (!matchesSubject(this.#options.subjects, subject)) {
      throw new RallyError("store-unavailable", `no log takes ${subject}`, { subject });
    }
    this.#expire();
    let log = this.#logs.get(subject);
    if (log === undefined) {
      log = { entries: [], feed: new Feed() };
      this.#logs.set(subject, log);
    }
    return log;
  }

  #expire(): void {
    const { maxAgeMs } = this.#options;
    const now = this.#clock.elapsed();
    if (now < this.#expiresAt) return;
    this.#expiresAt = Infinity;
    const oldest = now - maxAgeMs;
    for (const [subject, log] of this.#logs) {
      let numOld = 0;
      for (const { at, payload } of log.entries) {
        if (at > oldest) break;
        numOld++;
        this.#bytes -= payload.length;
      }
      if (numOld > 0) log.entries = log.entries.slice(numOld);
      const [first] = log.entries;
      if (first !== undefined) this.#expiresAt = Math.min(this.#expiresAt, first.at + maxAgeMs);
      else if (!log.feed.isFollowed) this.#logs.delete(subject);
    }
  }
}
