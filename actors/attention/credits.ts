/**
 * Back-pressure towards each shard: at most `limit` parts in flight; others wait in order and are sent as credits return.
 * NATS itself never pushes back on a publisher.
 */
export class Credits<T> {
  readonly #limit: number;
  readonly #send: (holder: T) => void;
  readonly #holders: Set<T>[];
  readonly #waiting: T[][];

  constructor(numShards: number, limit: number, send: (holder: T) => void) {
    this.#limit = limit;
    this.#send = send;
    this.#holders = Array.from({ length: numShards }, () => new Set<T>());
    this.#waiting = Array.from({ length: numShards }, () => []);
  }

  get inUse(): number {
    return this.#holders.reduce((sum, holders) => sum + holders.size, 0);
  }

  /** Sends now or when a credit is free. */
  take(shard: number, holder: T): void {
    const holders = this.#holders[shard] as Set<T>;
    if (holders.size >= this.#limit) {
      (this.#waiting[shard] as T[]).push(holder);
      return;
    }
    holders.add(holder);
    this.#send(holder);
  }

  /** Gives the credit back, or leaves the queue. */
  release(shard: number, holder: T): void {
    const waiting = this.#waiting[shard] as T[];
    if ((this.#holders[shard] as Set<T>).delete(holder)) {
      const next = waiting.shift();
      if (next !== undefined) this.take(shard, next);
      return;
    }
    const index = waiting.indexOf(holder);
    if (index >= 0) waiting.splice(index, 1);
  }
}
