import type { Subscription } from "./bus.ts";
import type { KeyValue, KeyValueEntry } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { Feed } from "./memory-feed.ts";

export class MemoryKeyValue implements KeyValue {
  readonly #entries = new Map<string, KeyValueEntry>();
  readonly #feeds = new Map<string, Feed<KeyValueEntry>>();
  readonly #checkUp: () => void;
  #lastRevision = 0;

  /** `checkUp` throws while the store is out of reach. */
  constructor(checkUp: () => void) {
    this.#checkUp = checkUp;
  }

  async get(key: string): Promise<KeyValueEntry | undefined> {
    this.#checkUp();
    const entry = this.#entries.get(key);
    return entry && { ...entry, value: new Uint8Array(entry.value) };
  }

  async put(key: string, value: Uint8Array, expectedRevision?: number): Promise<number> {
    this.#checkUp();
    const present = this.#entries.get(key)?.revision ?? 0;
    if (expectedRevision !== undefined && expectedRevision !== present) {
      throw new RallyError("stale-owner", `${key} is at revision ${present}, not at ${expectedRevision}`, {
        key,
        expectedRevision,
        revision: present,
      });
    }
    const entry: KeyValueEntry = { value: new Uint8Array(value), revision: ++this.#lastRevision };
    this.#entries.set(key, entry);
    this.#feeds.get(key)?.push(entry);
    return entry.revision;
  }

  async watch(key: string, handler: (entry: KeyValueEntry) => void): Promise<Subscription> {
    this.#checkUp();
    let feed = this.#feeds.get(key);
    if (feed === undefined) {
      feed = new Feed();
      this.#feeds.set(key, feed);
    }
    const present = this.#entries.get(key);
    return feed.follow(present === undefined ? [] : [present], (entry) =>
      handler({ ...entry, value: new Uint8Array(entry.value) }),
    );
  }
}
