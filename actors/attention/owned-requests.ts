import type { OwnedRequest } from "./owned-request.ts";

/** The requests in an attention actor's hands, by the engine's key and by their id. */
export class OwnedRequests {
  readonly #byKey = new Map<number, OwnedRequest>();
  readonly #byRequestId = new Map<string, OwnedRequest>();
  #waiting: (() => void)[] = [];
  #spentMs = 0;

  get size(): number {
    return this.#byKey.size;
  }

  /** Time in the request machines, of those that are gone too. */
  get machineMs(): number {
    let spentMs = this.#spentMs;
    for (const owned of this.#byKey.values()) spentMs += owned.machineMs;
    return spentMs;
  }

  add(key: number, owned: OwnedRequest): void {
    this.#byKey.set(key, owned);
    this.#byRequestId.set(owned.requestId, owned);
  }

  remove(key: number): void {
    const owned = this.#byKey.get(key);
    if (owned === undefined) return;
    this.#byKey.delete(key);
    this.#byRequestId.delete(owned.requestId);
    this.#spentMs += owned.machineMs;
    this.wake();
  }

  withKey(key: number): OwnedRequest | undefined {
    return this.#byKey.get(key);
  }

  withRequestId(requestId: string): OwnedRequest | undefined {
    return this.#byRequestId.get(requestId);
  }

  all(): IterableIterator<OwnedRequest> {
    return this.#byKey.values();
  }

  /** Resolves when one has left, or on `wake`. */
  change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
