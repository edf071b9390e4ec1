const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/** Delays before each next try: 100 ms, doubling to 5 s, from the beginning again after `reset`. */
export class Backoff {
  #next = FIRST_MS;

  next(): number {
    const delay = this.#next;
    this.#next = Math.min(LONGEST_MS, 2 * delay);
    return delay;
  }

  reset(): void {
    this.#next = FIRST_MS;
  }
}
