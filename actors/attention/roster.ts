import type { Sequence } from "./sequence.ts";

/** Room that a sequence must find for itself and leave to each that runs, lest it is put out again at once. Tokens. */
const HEADROOM = 32;

/** What has to happen so that the right sequences hold KV slots. */
export interface RosterChange {
  /** From the oldest on. */
  readonly start: readonly Sequence[];
  /** From the youngest on. */
  readonly preempt: readonly Sequence[];
}

/**
 * Which of the engine's sequences hold KV slots and which wait: the oldest that fit into `maxTokens` together, always at least
 * one. When they grow beyond, the youngest give way, and come back by prefilling what they had.
 */
export class Roster {
  readonly #maxTokens: number;
  readonly #running = new Map<number, Sequence>();
  readonly #waiting = new Map<number, Sequence>();
  #preemptions = 0;

  constructor(maxTokens: number) {
    this.#maxTokens = maxTokens;
  }

  get numWaiting(): number {
    return this.#waiting.size;
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  add(sequence: Sequence): void {
    this.#waiting.set(sequence.request.key, sequence);
  }

  remove(key: number): void {
    this.#running.delete(key);
    this.#waiting.delete(key);
  }

  /** `renew` makes the sequence that a preempted one comes back as. */
  settle(renew: (sequence: Sequence) => Sequence): RosterChange {
    const preempt = this.#tooMany();
    for (const sequence of preempt) {
      const { key } = sequence.request;
      this.#running.delete(key);
      this.#waiting.set(key, renew(sequence));
      this.#preemptions++;
    }
    const start = this.#waiting.size === 0 ? [] : this.#next();
    for (const sequence of start) {
      const { key } = sequence.request;
      this.#waiting.delete(key);
      this.#running.set(key, sequence);
    }
    return { start, preempt };
  }

  #tooMany(): Sequence[] {
    let numTokens = this.#numTokens();
    const preempt: Sequence[] = [];
    if (numTokens <= this.#maxTokens) return preempt;
    for (const sequence of byAge(this.#running).slice(1).toReversed()) {
      preempt.push(sequence);
      numTokens -= sequence.tokenIds.length;
      if (numTokens <= this.#maxTokens) break;
    }
    return preempt;
  }

  #next(): Sequence[] {
    const start: Sequence[] = [];
    let needed = this.#numTokens() + HEADROOM * this.#running.size;
    for (const sequence of byAge(this.#waiting)) {
      needed += sequence.tokenIds.length + HEADROOM;
      // In order of age: a small one that overtakes would keep a large one waiting for ever.
      if (needed > this.#maxTokens && this.#running.size + start.length > 0) break;
      start.push(sequence);
    }
    return start;
  }

  #numTokens(): number {
    let numTokens = 0;
    for (const { tokenIds } of this.#running.values()) numTokens += tokenIds.length;
    return numTokens;
  }
}

function byAge(sequences: ReadonlyMap<number, Sequence>): Sequence[] {
  return [...sequences.values()].sort((a, b) => a.request.key - b.request.key);
}
