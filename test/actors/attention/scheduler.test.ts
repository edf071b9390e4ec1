import { describe, expect, it } from "vitest";
import { type PassPlan, MicroBatchSchedule, type Slots } from "../../../actors/attention/scheduler.ts";
import { numRemaining, type Sequence, sequenceOf } from "../../../actors/attention/sequence.ts";
import { engineRequest } from "../../support/engine-requests.ts";

/** Follows whose tokens lie in which slot, as a KV cache would. */
class SlotRecorder implements Slots {
  /** [slot][token] key of the sequence whose token is there. */
  readonly tokens: (number | undefined)[][] = Array.from({ length: 64 }, () => []);
  reserved = 0;
  numSlots = 0;

  reserve(length: number, numSlots: number): void {
    this.reserved = Math.max(this.reserved, length);
    this.numSlots = numSlots;
  }

  shrink(length: number): void {
    this.reserved = Math.min(this.reserved, length);
  }

  swap(a: number, b: number, length: number): void {
    const [first, second] = [this.tokens[a] ?? [], this.tokens[b] ?? []];
    this.tokens[a] = second.slice(0, length);
    this.tokens[b] = first.slice(0, length);
  }

  clear(slot: number): void {
    this.tokens[slot] = [];
  }
}

class Bench {
  readonly slots = new SlotRecorder();
  readonly schedule: MicroBatchSchedule;
  readonly sequences: Sequence[] = [];

  constructor(prefillTokens: number) {
    this.schedule = new MicroBatchSchedule(0, this.slots, prefillTokens);
  }

  join(key: number, length: number, maxTokens = 4): Sequence {
    const sequence = sequenceOf(engineRequest(key, length, maxTokens));
    this.sequences.push(sequence);
    this.schedule.join(sequence);
    return sequence;
  }

  /** One pass as the engine makes it, checked; undefined when there is nothing to do. */
  pass(): PassPlan | undefined {
    const plan = this.schedule.next();
    if (plan === undefined) return undefined;
    const live = this.sequences.filter(({ gone }) => !gone);
    expect(this.slots.numSlots).toBe(live.length);
    for (const [i, sequence] of plan.sequences.entries()) {
      const kept = this.slots.tokens[plan.firstSlot + i] ?? [];
      expect(kept.slice(0, sequence.numCached)).toEqual(
        Array.from({ length: sequence.numCached }, () => sequence.request.key),
      );
      expect(numRemaining(sequence)).toBeGreaterThanOrEqual(plan.chunk);
      expect(sequence.numCached + plan.chunk).toBeLessThanOrEqual(this.slots.reserved);
      for (let c = 0; c < plan.chunk; c++) kept[sequence.numCached + c] = sequence.request.key;
      this.slots.tokens[plan.firstSlot + i] = kept;
    }
    this.schedule.finish(plan);
    for (const sequence of plan.sequences) {
      if (sequence.gone || numRemaining(sequence) > 0) continue;
      sequence.tokenIds.push(9);
      if (sequence.tokenIds.length >= sequence.request.numPromptTokens + sequence.request.maxTokens)
        sequence.gone = true;
    }
    this.schedule.settle();
    return plan;
  }
}

const shapeOf = (plan: PassPlan | undefined) =>
  plan === undefined ? undefined : [plan.kind, plan.sequences.map(({ request }) => request.key), plan.chunk];

describe("MicroBatchSchedule", () => {
  it("prefills a prompt in chunks, then decodes", () => {
    const bench = new Bench(8);
    bench.join(1, 19, 2);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1], 8]);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1], 8]);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1], 3]);
    expect(shapeOf(bench.pass())).toEqual(["decode", [1], 1]);
    expect(bench.pass()).toBeUndefined();
    expect(bench.schedule.numCachedTokens).toBe(0);
    expect(bench.schedule.numSequences).toBe(0);
  });

  it("lets decode and prefill take turns", () => {
    const bench = new Bench(4);
    bench.join(1, 2, 20);
    bench.pass();
    bench.join(2, 40, 2);
    const kinds = Array.from({ length: 8 }, () => bench.pass()?.kind);
    expect(kinds).toEqual(["decode", "prefill", "decode", "prefill", "decode", "prefill", "decode", "prefill"]);
  });

  it("puts equal prompts into one pass as far as they fit it whole", () => {
    const bench = new Bench(32);
    for (let key = 1; key <= 6; key++) bench.join(key, 10, 1);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1, 2, 3], 10]);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [4, 5, 6], 10]);
    expect(bench.pass()).toBeUndefined();
  });

  it("always takes the oldest prompt", () => {
    const bench = new Bench(16);
    bench.join(1, 3, 1);
    for (let key = 2; key < 9; key++) bench.join(key, 16, 1);
    for (let oldest = 1; oldest < 9; oldest++) {
      const waiting = bench.sequences.filter(({ gone }) => !gone).map(({ request }) => request.key);
      if (waiting.length === 0) break;
      expect(bench.pass()?.sequences.map(({ request }) => request.key)).toContain(Math.min(...waiting));
    }
  });

  it("keeps passes full however ragged the prompts are", () => {
    const bench = new Bench(64);
    // All lengths from 1 to 32, shuffled.
    const lengths = Array.from({ length: 32 }, (_, i) => 1 + ((i * 13) % 32));
    for (const [i, length] of lengths.entries()) bench.join(i + 1, length, 1);
    const rows: number[] = [];
    for (let oldest = 0; ;) {
      const before = bench.sequences.filter(({ gone }) => !gone);
      oldest = before.length === 0 ? 0 : numRemaining(before[0] as Sequence);
      const plan = bench.pass();
      if (plan === undefined) break;
      rows.push(plan.sequences.length * plan.chunk);
      expect(rows.at(-1)).toBeGreaterThanOrEqual(Math.min(64, oldest));
      expect(rows.at(-1)).toBeLessThanOrEqual(64);
    }
    expect(rows.reduce((sum, n) => sum + n, 0)).toBe((32 * 33) / 2);
    // The shortest of all deciding for all would take 32 passes; full ones would be 9.
    expect(rows.length).toBeLessThanOrEqual(16);
  });

  it("moves every sequence's tokens with it through joins, endings and releases", () => {
    const bench = new Bench(24);
    let key = 0;
    for (let step = 0; step < 400; step++) {
      const live = bench.sequences.filter(({ gone }) => !gone);
      if (live.length < 20 && step % 2 === 0) bench.join(++key, 1 + ((step * 29) % 70), 1 + (step % 9));
      if (step % 11 === 5) {
        const victim = live[(step * 7) % live.length];
        if (victim !== undefined) victim.gone = true;
      }
      bench.pass();
    }
    for (const sequence of bench.sequences) sequence.gone = true;
    expect(bench.pass()).toBeUndefined();
    expect(bench.schedule.numCachedTokens).toBe(0);
    expect(key).toBeGreaterThan(80);
  });

  it("gives no slot to what is gone before it had one", () => {
    const bench = new Bench(8);
    bench.join(1, 4, 3);
    bench.pass();
    bench.join(2, 4).gone = true;
    expect(bench.schedule.numSequences).toBe(1);
    expect(shapeOf(bench.pass())).toEqual(["decode", [1], 1]);
    expect(bench.slots.numSlots).toBe(1);
  });

  it("counts a sequence as decoding when only its newest token is missing from the cache", () => {
    const bench = new Bench(4);
    const taken = sequenceOf({ ...engineRequest(1, 5, 9), tokenIds: [2, 3, 4, 5, 6, 7, 8, 9, 10] });
    bench.sequences.push(taken);
    bench.schedule.join(taken);
    // Eight of prompt and earlier output prefilled; the ninth may as well go as a decode.
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1], 4]);
    expect(shapeOf(bench.pass())).toEqual(["prefill", [1], 4]);
    expect(shapeOf(bench.pass())).toEqual(["decode", [1], 1]);
    expect(taken.tokenIds).toHaveLength(10);
  });
});
