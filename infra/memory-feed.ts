import type { Subscription } from "./bus.ts";

/** Hands items to its followers one after another, outside the call that brought them. */
export class Feed<T> {
  readonly #followers = new Set<(item: T) => void>();

  get isFollowed(): boolean {
    return this.#followers.size > 0;
  }

  push(item: T): void {
    for (const take of this.#followers) take(item);
  }

  follow(present: readonly T[], handler: (item: T) => void): Subscription {
    let queued: T[] = [];
    let active = true;
    const drain = (): void => {
      const items = queued;
      queued = [];
      for (const item of items) if (active) handler(item);
    };
    const take = (item: T): void => {
      if (queued.push(item) === 1) setImmediate(drain);
    };
    for (const item of present) take(item);
    this.#followers.add(take);
    return {
      unsubscribe: () => {
        active = false;
        this.#followers.delete(take);
      },
    };
  }
}
