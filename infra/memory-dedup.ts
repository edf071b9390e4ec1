import type { Clock } from "./clock.ts";
import { DUPLICATE_WINDOW_MS } from "./durable-limits.ts";

/** Ids seen within the duplicate window, with the seq each got first. */
export class DuplicateWindow {
  readonly #clock: Clock;
  /** In order of arrival, so the oldest are first. */
  readonly #seen = new Map<string, { readonly seq: number; readonly at: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  find(id: string): number | undefined {
    const oldest = this.#clock.elapsed() - DUPLICATE_WINDOW_MS;
    for (const [seenId, { at }] of this.#seen) {
      if (at > oldest) break;
      this.#seen.delete(seenId);
    }
    return this.#seen.get(id)?.seq;
  }

  remember(id: string, seq: number): void {
    this.#seen.set(id, { seq, at: this.#clock.elapsed() });
  }
}
