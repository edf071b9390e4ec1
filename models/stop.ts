/**
 * Watches streamed text for stop strings, also across the borders of its pieces. The stop string that is complete first wins
 * (of two that end together, the longer) and the text ends before it, so the outcome does not depend on how the text was cut.
 * Text is emitted as soon as it cannot be part of a stop string any more.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = "";
  #stopped = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop.length > 0);
    this.#longest = Math.max(0, ...this.#stops.map((stop) => stop.length));
  }

  /** After `stopped`, every further push is ignored. */
  push(text: string): { emit: string; stopped: boolean } {
    if (this.#stopped) return { emit: "", stopped: true };
    if (this.#longest === 0) return { emit: text, stopped: false };
    const pending = this.#held + text;
    const start = this.#firstComplete(pending);
    if (start !== undefined) {
      this.#stopped = true;
      this.#held = "";
      return { emit: pending.slice(0, start), stopped: true };
    }
    const cut = this.#forming(pending);
    this.#held = pending.slice(cut);
    return { emit: pending.slice(0, cut), stopped: false };
  }

  /** The text still held back, once no more is to come. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #firstComplete(text: string): number | undefined {
    let best: { start: number; end: number } | undefined;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (best === undefined || end < best.end || (end === best.end && start < best.start)) best = { start, end };
    }
    return best?.start;
  }

  /** Where the earliest stop string that may be forming begins; the text's end if none is. */
  #forming(text: string): number {
    for (let at = Math.max(0, text.length - this.#longest + 1); at < text.length; at++) {
      const tail = text.slice(at);
      if (this.#stops.some((stop) => stop.startsWith(tail))) return at;
    }
    return text.length;
  }
}
