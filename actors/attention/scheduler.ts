import { assert } from "../../infra/errors.ts";
import { isDecoding, numRemaining, type Sequence } from "./sequence.ts";

/** The part of a KV cache that scheduling moves around. */
export interface Slots {
  reserve(length: number, numSlots: number): void;
  shrink(length: number, numSlots: number): void;
  swap(a: number, b: number, length: number): void;
  clear(slot: number): void;
}

/** One trip of some of a micro-batch's sequences through the layers: slots firstSlot … firstSlot + sequences.length - 1. */
export interface PassPlan {
  readonly kind: "prefill" | "decode";
  readonly firstSlot: number;
  readonly sequences: readonly Sequence[];
  /** Tokens of each sequence in this pass. */
  readonly chunk: number;
}

/**
 * The sequences of one micro-batch in slot order: those that decode first, then those that prefill, so that either kind is
 * one run of slots. Slots move only between passes, because a pass holds views of the cache.
 */
export class MicroBatchSchedule {
  readonly index: number;
  readonly #slots: Slots;
  readonly #prefillTokens: number;
  readonly #sequences: Sequence[] = [];
  #joining: Sequence[] = [];
  #numDecoding = 0;
  #lastKind: PassPlan["kind"] = "decode";

  constructor(index: number, slots: Slots, prefillTokens: number) {
    this.index = index;
    this.#slots = slots;
    this.#prefillTokens = prefillTokens;
  }

  /** Sequences that hold or are about to hold a slot, those that are gone but not yet removed left out. */
  get numSequences(): number {
    return countLive(this.#sequences) + countLive(this.#joining);
  }

  /** Tokens in the cache. */
  get numCachedTokens(): number {
    return this.#sequences.reduce((sum, sequence) => sum + sequence.numCached, 0);
  }

  get sequences(): readonly Sequence[] {
    return this.#sequences;
  }

  join(sequence: Sequence): void {
    this.#joining.push(sequence);
  }

  /** Called between passes only. Prefill and decode take turns, so that neither new nor running requests starve. */
  next(): PassPlan | undefined {
    this.#removeGone();
    // One that is gone already never takes a slot: only the live ones are certain to fit.
    for (const sequence of this.#joining) if (!sequence.gone) this.#sequences.push(sequence);
    this.#joining = [];
    if (this.#sequences.length === 0) return undefined;
    const numPrefilling = this.#sequences.length - this.#numDecoding;
    const kind = numPrefilling > 0 && (this.#numDecoding === 0 || this.#lastKind === "decode") ? "prefill" : "decode";
    this.#lastKind = kind;
    const plan = kind === "prefill" ? this.#prefill() : this.#decode();
    let needed = 0;
    for (const { numCached } of this.#sequences) needed = Math.max(needed, numCached);
    for (const { numCached } of plan.sequences) needed = Math.max(needed, numCached + plan.chunk);
    this.#slots.shrink(needed, this.#sequences.length);
    this.#slots.reserve(needed, this.#sequences.length);
    return plan;
  }

  /** After a pass: its tokens are in the cache. */
  finish(plan: PassPlan): void {
    for (const sequence of plan.sequences) sequence.numCached += plan.chunk;
  }

  /** Sorts the slots again once the sampled tokens are appended: sequences that have finished their prompt now decode. */
  settle(): void {
    for (let slot = this.#numDecoding; slot < this.#sequences.length; slot++) {
      if (isDecoding(this.#at(slot))) this.#exchange(slot, this.#numDecoding++);
    }
  }

  /**
   * The oldest prompt, with as many others as make the pass fullest. The shortest remainder decides the chunk, so that no row
   * is padding; prompts too short for it wait, so that a pass never has fewer rows than the oldest prompt alone would give it.
   */
  #prefill(): PassPlan {
    const firstSlot = this.#numDecoding;
    const waiting = this.#sequences.slice(firstSlot).sort(byAge);
    const [oldest, ...others] = waiting;
    assert(oldest !== undefined, "a prefill pass has a sequence");
    others.sort((a, b) => numRemaining(b) - numRemaining(a) || byAge(a, b));
    let chunk = Math.min(numRemaining(oldest), this.#prefillTokens);
    let numOthers = 0;
    for (const [i, other] of others.entries()) {
      const shortest = Math.min(numRemaining(oldest), numRemaining(other));
      const numRows = (i + 2) * shortest;
      if (numRows > this.#prefillTokens || numRows <= (numOthers + 1) * chunk) continue;
      [chunk, numOthers] = [shortest, i + 1];
    }
    const chosen = new Set([oldest, ...others.slice(0, numOthers)]);
    for (let slot = firstSlot, end = firstSlot; end < firstSlot + chosen.size; slot++) {
      if (chosen.has(this.#at(slot))) this.#exchange(slot, end++);
    }
    return { kind: "prefill", firstSlot, sequences: this.#sequences.slice(firstSlot, firstSlot + chosen.size), chunk };
  }

  #decode(): PassPlan {
    return { kind: "decode", firstSlot: 0, sequences: this.#sequences.slice(0, this.#numDecoding), chunk: 1 };
  }

  #removeGone(): void {
    for (let slot = this.#sequences.length - 1; slot >= 0; slot--) {
      if (!this.#at(slot).gone) continue;
      let hole = slot;
      if (hole < this.#numDecoding) {
        // Keep the decoding ones together: the last of them fills the hole, the last of all fills its place.
        this.#numDecoding--;
        this.#exchange(hole, this.#numDecoding);
        hole = this.#numDecoding;
      }
      this.#exchange(hole, this.#sequences.length - 1);
      this.#sequences.pop();
      this.#slots.clear(this.#sequences.length);
    }
  }

  #exchange(a: number, b: number): void {
    if (a === b) return;
    const [first, second] = [this.#at(a), this.#at(b)];
    this.#slots.swap(a, b, Math.max(numKept(first), numKept(second)));
    this.#sequences[a] = second;
    this.#sequences[b] = first;
  }

  #at(slot: number): Sequence {
    const sequence = this.#sequences[slot];
    assert(sequence !== undefined, `slot ${slot} of micro-batch ${this.index} is taken`);
    return sequence;
  }
}

/** Cached tokens that anybody still needs. */
function numKept({ gone, numCached }: Sequence): number {
  return gone ? 0 : numCached;
}

function byAge(a: Sequence, b: Sequence): number {
  return a.request.key - b.request.key;
}

function countLive(sequences: readonly Sequence[]): number {
  let count = 0;
  for (const { gone } of sequences) if (!gone) count++;
  return count;
}
