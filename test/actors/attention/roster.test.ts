import { describe, expect, it } from "vitest";
import { Roster } from "../../../actors/attention/roster.ts";
import { renewed, type Sequence, sequenceOf } from "../../../actors/attention/sequence.ts";
import { engineRequest } from "../../support/engine-requests.ts";

/** Keys that run, after everything has settled. */
class Bench {
  readonly roster: Roster;
  readonly sequences = new Map<number, Sequence>();
  readonly running = new Set<number>();

  constructor(maxTokens: number) {
    this.roster = new Roster(maxTokens);
  }

  add(key: number, length: number): this {
    const sequence = sequenceOf(engineRequest(key, length, 500));
    this.sequences.set(key, sequence);
    this.roster.add(sequence);
    return this;
  }

  grow(key: number, by: number): this {
    for (let i = 0; i < by; i++) this.sequences.get(key)?.tokenIds.push(7);
    return this;
  }

  remove(key: number): this {
    this.roster.remove(key);
    this.running.delete(key);
    return this;
  }

  settle(): number[] {
    const { start, preempt } = this.roster.settle((sequence) => {
      const next = renewed(sequence);
      this.sequences.set(sequence.request.key, next);
      return next;
    });
    for (const { request } of preempt) expect(this.running.delete(request.key)).toBe(true);
    for (const sequence of start) {
      const { key } = sequence.request;
      expect(this.running.has(key)).toBe(false);
      expect(sequence).toBe(this.sequences.get(key));
      this.running.add(key);
    }
    return [...this.running].sort((a, b) => a - b);
  }
}

describe("which sequences run", () => {
  it("all that fit, with room to grow, the oldest first", () => {
    const b = new Bench(400).add(1, 100).add(2, 100).add(3, 100).add(4, 10);
    // 100 + 100 + 100 + 3 × 32 fit, one of 10 more does not.
    expect(b.settle()).toEqual([1, 2, 3]);
    expect(b.remove(2).settle()).toEqual([1, 3, 4]);
  });

  it("in order of age: a small one does not overtake", () => {
    const b = new Bench(400).add(1, 200).add(2, 190).add(3, 5);
    expect(b.settle()).toEqual([1]);
    expect(b.remove(1).settle()).toEqual([2, 3]);
  });

  it("always one, however long", () => {
    const b = new Bench(100).add(1, 500).add(2, 1);
    expect(b.settle()).toEqual([1]);
    expect(b.grow(1, 50).settle()).toEqual([1]);
    expect(b.remove(1).settle()).toEqual([2]);
  });

  it("until they outgrow the limit: the youngest gives way, and comes back with all its tokens", () => {
    const b = new Bench(400).add(1, 100).add(2, 100).add(3, 100);
    b.settle();
    for (const key of [1, 2, 3]) b.grow(key, 33);
    expect(b.settle()).toEqual([1, 2, 3]);
    expect(b.grow(3, 2).settle()).toEqual([1, 2]);
    expect(b.roster).toMatchObject({ numWaiting: 1, preemptions: 1 });
    // Not as soon as it would just fit.
    expect(b.settle()).toEqual([1, 2]);
    expect(b.remove(1).settle()).toEqual([2, 3]);
    expect(b.sequences.get(3)).toMatchObject({ numCached: 0, gone: false });
    expect(b.sequences.get(3)?.tokenIds).toHaveLength(135);
  });

  it("as many as need be give way", () => {
    const b = new Bench(1000).add(1, 100).add(2, 100).add(3, 100).add(4, 100);
    b.settle();
    expect(b.grow(1, 650).grow(2, 100).settle()).toEqual([1, 2]);
  });
});
