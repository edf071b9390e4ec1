import type { Subscription } from "./bus.ts";

/**
 * What must outlive any process: the request queue, the token log and the placement. Implementations: `memory-durable`
 * (tests) and `nats-durable` (JetStream file storage, nothing newer than nats-server 2.9.10). One contract suite,
 * `test/infra/durable.contract.ts`, holds both to this page.
 */
export interface Durable {
  queue(options: QueueOptions): Promise<WorkQueue>;
  log(options: LogOptions): Promise<DurableLog>;
  keyValue(bucket: string): Promise<KeyValue>;
  /** Removes one of these and all it holds; nothing happens if there is none. Whoever still has it open loses it. */
  remove(kind: "queue" | "log" | "keyValue", name: string): Promise<void>;
}

export interface QueueOptions {
  readonly name: string;
  readonly subject: string;
  /** Jobs that may wait or be worked on; the next `put` is refused with `overloaded`. */
  readonly maxJobs: number;
  readonly maxJobBytes: number;
  /** A job whose worker was silent for this long is delivered again. */
  readonly ackWaitMs: number;
}

/** Each job is delivered until one worker says `done`. */
export interface WorkQueue {
  /**
   * Resolves once the job is on disk, whole. `overloaded` when full. The same `id` twice within two minutes is one job. One
   * whose bytes were changed on their way there is put again; workers get the damaged one, too, as an empty one.
   */
  put(id: string, payload: Uint8Array): Promise<void>;
  /** Up to `max` jobs; waits at most `waitMs` for the first, or until `cancelled`. An empty list is a normal answer. */
  pull(max: number, waitMs: number, cancelled?: AbortSignal): Promise<Job[]>;
  /** The first job behind position `afterSeq` that is not done, for looking at only: whoever has it keeps it. */
  peek(afterSeq: number): Promise<{ readonly seq: number; readonly payload: Uint8Array } | undefined>;
  /** Jobs not yet done. */
  depth(): Promise<number>;
  /** The position of the last job that was delivered for the first time, and how many are being worked on. */
  progress(): Promise<{ readonly lastDelivered: number; readonly numInHand: number }>;
  /** Takes the job at a position off the queue, for good; nothing happens if it has gone already. */
  discard(seq: number): Promise<void>;
}

export interface Job {
  /** What it was put under; undefined if others have put it and gave none. */
  readonly id: string | undefined;
  /** Empty if its bytes are not those that were put. */
  readonly payload: Uint8Array;
  /** 1 at first; more after a redelivery. */
  readonly delivery: number;
  /** "Still working": starts the ack wait anew. */
  working(): void;
  /**
   * Takes the job off the queue; resolves when the server has confirmed it. A server killed within a second after that may
   * have forgotten it and deliver the job again.
   */
  done(): Promise<void>;
  /** Gives the job back, to be delivered again after `delayMs`. */
  release(delayMs?: number): void;
}

export interface LogOptions {
  readonly name: string;
  /** With a wildcard last token, e.g. `rally.d.tokens.*`: each concrete subject is a log of its own. */
  readonly subjects: string;
  readonly maxAgeMs: number;
  readonly maxBytes: number;
}

export interface LogEntry {
  /** Position in the whole store, growing; also what the next append must expect. */
  readonly seq: number;
  /** Empty if its bytes are not those that were appended: then what they said comes in a later entry. */
  readonly payload: Uint8Array;
}

export interface DurableLog {
  /**
   * Resolves once the entry is stored whole; its seq is that of the copy that is. Appends if `expectedLastSeq` is the seq of
   * the subject's last entry (0: none yet), else RallyError `stale-owner`: this is the fence that keeps two owners from both
   * writing. A repeated `id` (two minutes) is not appended again and answers with `duplicate`. A full or read-only store is
   * `store-unavailable`.
   */
  append(
    subject: string,
    payload: Uint8Array,
    options: { readonly id: string; readonly expectedLastSeq: number },
  ): Promise<{ readonly seq: number; readonly duplicate: boolean }>;
  /** Every entry of one subject, in order, as of now. */
  read(subject: string): Promise<LogEntry[]>;
  /**
   * Every entry of one subject from the beginning and then as it is appended, in order, each once; from the beginning again if
   * the store has lost some of them in a power cut.
   */
  follow(subject: string, handler: (entry: LogEntry) => void): Promise<Subscription>;
  /** Removes a subject's entries. */
  purge(subject: string): Promise<void>;
}

export interface KeyValueEntry {
  readonly value: Uint8Array;
  readonly revision: number;
}

export interface KeyValue {
  get(key: string): Promise<KeyValueEntry | undefined>;
  /** `expectedRevision` 0: only if the key is new; a mismatch is `stale-owner`. Resolves with the new revision. */
  put(key: string, value: Uint8Array, expectedRevision?: number): Promise<number>;
  /** The present value, if any, and every later one; empty where others have removed it. */
  watch(key: string, handler: (entry: KeyValueEntry) => void): Promise<Subscription>;
}
