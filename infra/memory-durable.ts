import { systemClock, type Clock } from "./clock.ts";
import type { Durable, DurableLog, KeyValue, LogOptions, QueueOptions, WorkQueue } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { MemoryKeyValue } from "./memory-key-value.ts";
import { MemoryLog } from "./memory-log.ts";
import { MemoryQueue } from "./memory-queue.ts";

/** A durable store that lives as long as this object: opening a name again gives the same content, with the new limits. */
export class MemoryDurable implements Durable {
  readonly #clock: Clock;
  readonly #queues = new Map<string, MemoryQueue>();
  readonly #logs = new Map<string, MemoryLog>();
  readonly #buckets = new Map<string, MemoryKeyValue>();
  #up = true;

  constructor(options: { readonly clock?: Clock } = {}) {
    this.#clock = options.clock ?? systemClock;
  }

  async queue(options: QueueOptions): Promise<WorkQueue> {
    this.#checkUp();
    const queue = open(this.#queues, options.name, () => new MemoryQueue(options, this.#clock, this.#checkUp));
    queue.configure(options);
    return queue;
  }

  async log(options: LogOptions): Promise<DurableLog> {
    this.#checkUp();
    const log = open(this.#logs, options.name, () => new MemoryLog(options, this.#clock, this.#checkUp));
    log.configure(options);
    return log;
  }

  async keyValue(bucket: string): Promise<KeyValue> {
    this.#checkUp();
    return open(this.#buckets, bucket, () => new MemoryKeyValue(this.#checkUp));
  }

  async remove(kind: "queue" | "log" | "keyValue", name: string): Promise<void> {
    this.#checkUp();
    if (kind === "queue") this.#queues.get(name)?.remove();
    const opened = { queue: this.#queues, log: this.#logs, keyValue: this.#buckets }[kind];
    opened.delete(name);
  }

  /** As if the server were gone: everything that would write or read is refused until `restore`. */
  interrupt(): void {
    this.#up = false;
  }

  restore(): void {
    this.#up = true;
  }

  readonly #checkUp = (): void => {
    if (!this.#up) throw new RallyError("server-unavailable", "the store cannot be reached");
  };
}

function open<T>(opened: Map<string, T>, name: string, create: () => T): T {
  const present = opened.get(name);
  if (present !== undefined) return present;
  const created = create();
  opened.set(name, created);
  return created;
}
