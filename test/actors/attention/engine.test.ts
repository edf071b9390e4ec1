import { afterEach, describe, expect, it } from "vitest";
import { Engine } from "../../../actors/attention/engine.ts";
import type { EngineOptions } from "../../../actors/attention/engine-options.ts";
import type { FfnSide } from "../../../actors/attention/ffn-side.ts";
import { LocalFfn } from "../../../actors/attention/local-ffn.ts";
import type { EngineRequest, EngineToken } from "../../../actors/attention/sequence.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { engineRequest } from "../../support/engine-requests.ts";
import { fakeConfig, FakeShard, fakeSpecs, FakeStages } from "../../support/fake-model.ts";
import { ManualFfn } from "../../support/manual-ffn.ts";
import { referenceTokens } from "../../support/reference-tokens.ts";
import { quiet, until } from "../../support/turns.ts";

/** An engine with everything it said. */
class Bench {
  readonly stages = new FakeStages();
  readonly tokens = new Map<number, EngineToken[]>();
  readonly failures = new Map<number, RallyError>();
  readonly spans: string[] = [];
  bubbleMs = 0;
  readonly clock = new SimulatedClock();
  readonly engine: Engine;
  readonly ffn: FfnSide;

  constructor(ffn: FfnSide, options: Partial<EngineOptions> = {}) {
    this.ffn = ffn;
    this.engine = new Engine({
      stages: this.stages,
      ffn,
      clock: this.clock,
      listener: {
        tokens: (tokens) => {
          for (const token of tokens) this.tokens.set(token.key, [...(this.tokens.get(token.key) ?? []), token]);
        },
        failed: (key, error) => void this.failures.set(key, error),
      },
      observer: {
        computed: (what, microBatch, layer) => void this.spans.push(`${what} ${microBatch} ${layer}`),
        waited: (from, to) => {
          this.spans.push("waited");
          this.bubbleMs += to - from;
        },
      },
      maxSequences: 16,
      maxMicroBatches: 4,
      microBatches: () => 2,
      prefillTokens: 32,
      ...options,
    });
    this.engine.start();
  }

  ids(key: number): number[] {
    return (this.tokens.get(key) ?? []).map(({ id }) => id);
  }

  hasEnded(key: number): boolean {
    return this.failures.has(key) || this.tokens.get(key)?.at(-1)?.finish !== undefined;
  }

  async finished(keys: readonly number[]): Promise<void> {
    await until(() => keys.every((key) => this.hasEnded(key)), `the end of ${keys.join(", ")}`);
  }

  expectIdle(): void {
    expect(this.engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
    expect(this.ffn).toMatchObject({ pending: 0, creditsInUse: 0 });
    expect(this.clock.pending).toBe(0);
  }
}

const local = (numShards = 1) => new LocalFfn(fakeSpecs(numShards).map((spec) => new FakeShard(spec)));

let bench: Bench | undefined;
function open(ffn: FfnSide = local(), options: Partial<EngineOptions> = {}): Bench {
  bench = new Bench(ffn, options);
  return bench;
}
afterEach(async () => {
  await bench?.engine.close();
  bench = undefined;
});

const requests: EngineRequest[] = Array.from({ length: 16 }, (_, i) =>
  engineRequest(i + 1, 1 + ((i * 37) % 120), 3 + ((i * 5) % 20), {
    temperature: i % 2 === 0 ? 0 : 0.9,
    topP: 0.95,
    seed: 40 + i,
    repetitionPenalty: i % 3 === 0 ? 1.3 : 1,
  }),
);
const keys = requests.map(({ key }) => key);

describe("same tokens", async () => {
  const expected = await Promise.all(requests.map((request) => referenceTokens(request)));

  it("the reference is worth comparing with: its tokens differ and depend on every token before", async () => {
    expect(new Set(expected.map(String)).size).toBe(16);
    const request = engineRequest(1, 20, 5);
    const other = { ...request, tokenIds: [request.tokenIds[0] === 5 ? 6 : 5, ...request.tokenIds.slice(1)] };
    expect(await referenceTokens(other)).not.toEqual(await referenceTokens(request));
  });

  it("one request at a time", async () => {
    const { engine, ...rest } = open();
    for (const [i, request] of requests.entries()) {
      engine.admit(request);
      await bench?.finished([request.key]);
      expect(bench?.ids(request.key)).toEqual(expected[i]);
    }
    expect(rest.failures.size).toBe(0);
    bench?.expectIdle();
  });

  for (const microBatches of [1, 2, 4]) {
    for (const [numShards, prefillTokens] of [
      [1, 32],
      [2, 1],
      [3, 512],
    ] as const) {
      it(`16 at once, ${microBatches} micro-batches, ${numShards} shards, ${prefillTokens} prefill tokens`, async () => {
        const b = open(local(numShards), { microBatches: () => microBatches, prefillTokens });
        for (const request of requests) b.engine.admit(request);
        await b.finished(keys);
        for (const [i, key] of keys.entries()) expect(b.ids(key)).toEqual(expected[i]);
        b.expectIdle();
      });
    }
  }

  it("joining and leaving at any time, with the number of micro-batches changing", async () => {
    let turn = 0;
    const b = open(local(2), { microBatches: () => 1 + (turn % 4), maxSequences: 5 });
    const waiting = [...requests];
    const running: number[] = [];
    while (waiting.length > 0 || running.some((key) => !b.hasEnded(key))) {
      turn++;
      const next = b.engine.free > 0 && turn % 3 === 0 ? waiting.shift() : undefined;
      if (next !== undefined) {
        b.engine.admit(next);
        running.push(next.key);
      }
      // A stranger comes and goes in any phase of the others.
      if (turn % 7 === 0 && b.engine.free > 1) b.engine.admit(engineRequest(1000 + turn, 1 + (turn % 40), 9));
      if (turn % 7 === 4) b.engine.release(1000 + turn - 4);
      await quiet(1);
    }
    await until(() => b.engine.counts.activeSequences === 0 || releaseStrangers(b, turn));
    for (const [i, key] of keys.entries()) expect(b.ids(key)).toEqual(expected[i]);
    await until(() => !b.engine.counts.underWay);
    b.expectIdle();
  });

  it("going on from tokens that an earlier owner has logged", async () => {
    const b = open();
    const half = requests.map((request, i) => {
      const logged = (expected[i] ?? []).slice(0, Math.floor((expected[i] ?? []).length / 2));
      return { ...request, tokenIds: [...request.tokenIds, ...logged] };
    });
    for (const request of half) b.engine.admit(request);
    await b.finished(keys);
    for (const [i, key] of keys.entries()) {
      const logged = (half[i]?.tokenIds.length ?? 0) - (requests[i]?.tokenIds.length ?? 0);
      expect(b.ids(key)).toEqual(expected[i]?.slice(logged));
      expect(b.tokens.get(key)?.[0]?.index).toBe(logged);
    }
  });
});

function releaseStrangers(b: Bench, turn: number): boolean {
  for (let key = 1000; key <= 1000 + turn; key++) b.engine.release(key);
  return b.engine.counts.activeSequences === 0;
}

describe("a limit on KV tokens", async () => {
  // Long enough to outgrow the room that they find.
  const long = requests.map(({ key, sampling }) => engineRequest(key, 1 + ((key * 23) % 80), 100, sampling));
  const expected = await Promise.all(long.map((request) => referenceTokens(request)));

  for (const maxKvTokens of [1, 200, 300, 600]) {
    it(`of ${maxKvTokens}: sequences give way and come back, with the same tokens`, async () => {
      const b = open(local(), { maxKvTokens });
      let most = 0;
      b.stages.gate = () => void (most = Math.max(most, b.engine.counts.kvTokens));
      for (const request of long) b.engine.admit(request);
      await b.finished(keys);
      expect(keys.map((key) => b.ids(key))).toEqual(expected);
      for (const key of keys) expect(b.tokens.get(key)?.map(({ index }) => index)).toEqual(b.ids(key).map((_, i) => i));
      // A pass that is under way when the limit is passed ends with it: one token of each, or one that runs in any case.
      expect(most).toBeLessThanOrEqual(Math.max(maxKvTokens, 180) + 32);
      // With 1, one runs after the other.
      if (maxKvTokens === 200 || maxKvTokens === 300) expect(b.engine.counts.preemptions).toBeGreaterThan(0);
      b.expectIdle();
    });
  }

  /** Two requests of 20 prompt tokens with more than 60 to come. */
  async function longOnes(): Promise<[EngineRequest, EngineRequest]> {
    const found: EngineRequest[] = [];
    for (let key = 1; found.length < 2; key++) {
      const request = engineRequest(key, 20, 90);
      if ((await referenceTokens(request)).length > 60) found.push(request);
    }
    return found as [EngineRequest, EngineRequest];
  }

  it("gives way in any phase: while with the experts, and while the head is computed", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn, { maxKvTokens: 120, microBatches: () => 2 });
    const [old, young] = await longOnes();
    b.engine.admit(old);
    b.engine.admit(young);
    for (let step = 0; ![old, young].every(({ key }) => b.hasEnded(key)); step++) {
      if (step > 20_000) throw new Error("no end");
      // Mostly one of the two, so that each is caught in every phase.
      if (ffn.held.length > 0) await ffn.answer(ffn.held[(step >> 3) % ffn.held.length]?.trip.microBatch);
      await quiet(2);
    }
    expect(b.engine.counts.preemptions).toBeGreaterThan(0);
    for (const each of [old, young]) expect(b.ids(each.key)).toEqual(await referenceTokens(each));
    b.expectIdle();
  });
});

describe("admission", () => {
  it("refuses beyond its places with `overloaded`, and takes again what becomes free", async () => {
    const b = open(new ManualFfn(), { maxSequences: 2 });
    b.engine.admit(engineRequest(1, 3, 2));
    b.engine.admit(engineRequest(2, 3, 2));
    expect(b.engine.free).toBe(0);
    expect(() => b.engine.admit(engineRequest(3, 3, 2))).toThrow(
      expect.objectContaining({ code: "overloaded", fields: { limit: 2, retryAfterMs: 1000 } }),
    );
    b.engine.release(1);
    b.engine.admit(engineRequest(3, 3, 2));
    expect(b.engine.free).toBe(0);
  });

  it("refuses what cannot fit the context, and an empty prompt", () => {
    const b = open();
    expect(() => b.engine.admit(engineRequest(1, 100, 93))).toThrow(
      expect.objectContaining({ code: "context-exceeded", fields: { promptTokens: 100, maxTokens: 93, limit: 192 } }),
    );
    expect(() => b.engine.admit(engineRequest(1, 0, 5))).toThrow(expect.objectContaining({ code: "bad-request" }));
    b.expectIdle();
  });

  it("fills the context to its last token", async () => {
    const b = open(local(), { prefillTokens: 100 });
    const request = engineRequest(5, 150, 42, { temperature: 0.7, seed: 3 });
    b.engine.admit(request);
    await b.finished([5]);
    expect(b.ids(5)).toEqual(await referenceTokens(request));
    b.expectIdle();
  });

  it("never gives out more slots than there are, whatever joins and leaves during one pass", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn, { maxSequences: 1, microBatches: () => 1 });
    b.engine.admit(engineRequest(1, 4, 9));
    await until(() => ffn.pending === 1);
    for (let key = 2; key < 9; key++) {
      b.engine.release(key - 1);
      b.engine.admit(engineRequest(key, 4, 2));
    }
    const request = engineRequest(8, 4, 2);
    while (!b.hasEnded(8)) {
      await until(() => ffn.pending > 0 || b.hasEnded(8));
      if (ffn.pending > 0) await ffn.answer();
      await quiet(2);
    }
    expect(b.ids(8)).toEqual(await referenceTokens(request));
    expect(b.stages.passes.every(({ numSequences }) => numSequences === 1)).toBe(true);
    b.expectIdle();
  });
});

describe("ping-pong", () => {
  it("attends micro-batch 1 while micro-batch 0 is with the experts, and the other way round", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    b.engine.admit(engineRequest(1, 4, 2));
    b.engine.admit(engineRequest(2, 4, 2));
    await until(() => ffn.pending === 2);
    // Neither has been answered, both have been attended.
    expect(b.spans).toEqual(["attention 0 0", "attention 1 0"]);
    await ffn.answer(1);
    await until(() => b.spans.includes("attention 1 1"));
    expect(b.spans.filter((span) => span !== "waited")).toEqual(["attention 0 0", "attention 1 0", "attention 1 1"]);
    expect(ffn.held.map(({ trip }) => [trip.microBatch, trip.layer])).toEqual([
      [0, 0],
      [1, 1],
    ]);
    await ffn.answer(0);
    await ffn.answer(1);
    await until(() => ffn.pending === 2);
    expect(ffn.held.map(({ trip }) => [trip.microBatch, trip.layer])).toEqual([
      [0, 1],
      [1, 2],
    ]);
  });

  for (const [layerMs, often] of [
    [0, "after each pass that never leaves the thread"],
    [4, "between two attends of long layers, too"],
  ] as const) {
    it(`lets answers, admissions and releases in ${often}`, async () => {
      const b = open(local(), { microBatches: () => 1 });
      b.stages.gate = () => b.clock.advance(layerMs);
      b.engine.admit(engineRequest(1, 2, 60, { temperature: 0.9, seed: 9 }));
      let turns = 0;
      await until(() => turns++ > 0 && b.hasEnded(1));
      const { passes, attended } = b.stages;
      expect(turns).toBeGreaterThanOrEqual(layerMs === 0 ? passes.length : attended.length);
      expect(turns).toBeLessThan((layerMs === 0 ? passes.length : attended.length) * 2);
    });
  }

  it("calls waiting a bubble only while something is under way", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    await quiet();
    b.engine.admit(engineRequest(1, 1, 1));
    for (let layer = 0; layer < fakeConfig.numLayers; layer++) {
      await until(() => ffn.pending === 1);
      await quiet(2);
      await ffn.answer();
    }
    await b.finished([1]);
    await quiet();
    b.engine.admit(engineRequest(2, 1, 1));
    await until(() => ffn.pending === 1);
    expect(b.spans).toEqual([
      "attention 0 0",
      "waited",
      "attention 0 1",
      "waited",
      "attention 0 2",
      "waited",
      "head 0 3",
      "attention 0 0",
    ]);
  });
});

describe("release", () => {
  it("of the last one ends a bubble: time without any work is none", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    b.engine.admit(engineRequest(1, 4, 5));
    await until(() => ffn.pending === 1);
    await quiet();
    b.clock.advance(5);
    b.engine.release(1);
    await quiet();
    b.clock.advance(100);
    b.engine.admit(engineRequest(2, 4, 5));
    await until(() => ffn.pending === 1);
    expect(b.bubbleMs).toBe(5);
  });

  it("gives up a trip that nobody wants and goes on with those who wait", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn, { microBatches: () => 1 });
    b.engine.admit(engineRequest(1, 4, 5));
    await until(() => ffn.pending === 1);
    const request = engineRequest(2, 6, 1);
    b.engine.admit(request);
    b.engine.release(1);
    expect(ffn.abandoned).toEqual([0]);
    for (let layer = 0; layer < fakeConfig.numLayers; layer++) {
      await until(() => ffn.pending === 1);
      await ffn.answer();
    }
    await b.finished([2]);
    expect(b.ids(2)).toEqual(await referenceTokens(request));
    b.expectIdle();
  });

  it("does not dispatch what was released while it was attended", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    let open1 = () => {};
    b.stages.gate = () => new Promise<void>((resolve) => (open1 = resolve));
    b.engine.admit(engineRequest(1, 4, 5));
    await quiet();
    b.engine.release(1);
    open1();
    await until(() => !b.engine.counts.underWay);
    expect(ffn.pending).toBe(0);
    b.expectIdle();
  });

  it("samples nothing for what was released while the head was computed", async () => {
    const b = open();
    let finishHead = () => {};
    b.stages.headGate = () => new Promise<void>((resolve) => (finishHead = resolve));
    b.engine.admit(engineRequest(1, 4, 5));
    await quiet();
    b.engine.release(1);
    finishHead();
    await until(() => !b.engine.counts.underWay);
    expect(b.tokens.size).toBe(0);
    b.expectIdle();
  });

  it("leaves the others of the pass their tokens", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn, { microBatches: () => 1 });
    const stays = engineRequest(2, 4, 3);
    b.engine.admit(engineRequest(1, 4, 3));
    b.engine.admit(stays);
    b.engine.admit(engineRequest(3, 9, 3));
    let answers = 0;
    while (!b.hasEnded(2)) {
      await until(() => ffn.pending > 0 || b.hasEnded(2));
      if (answers++ === 4) b.engine.release(3);
      if (answers === 7) b.engine.release(1);
      if (ffn.pending > 0) await ffn.answer();
      await quiet(2);
    }
    expect(b.ids(2)).toEqual(await referenceTokens(stays));
    await until(() => !b.engine.counts.underWay);
    b.expectIdle();
  });

  it("ignores keys it does not know", () => {
    const b = open();
    b.engine.release(77);
    expect(b.engine.free).toBe(16);
  });
});

describe("failures", () => {
  const broken = new RallyError("session-failed", "the graph broke");

  it("of a graph end the sequences of its pass and leave the other micro-batches alone", async () => {
    const b = open(local(2));
    const other = engineRequest(2, 40, 6);
    let failed = false;
    b.stages.gate = (layer, pass) => {
      if (failed || layer !== 1 || pass.numTokens !== 4) return;
      failed = true;
      throw broken;
    };
    b.engine.admit(engineRequest(1, 4, 5));
    b.engine.admit(other);
    await b.finished([1, 2]);
    expect(b.failures).toEqual(new Map([[1, broken]]));
    expect(b.ids(2)).toEqual(await referenceTokens(other));
    // The micro-batch serves again.
    const next = engineRequest(3, 4, 5);
    b.engine.admit(next);
    await b.finished([3]);
    expect(b.ids(3)).toEqual(await referenceTokens(next));
    b.expectIdle();
  });

  it("of the experts come back with their own error", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    b.engine.admit(engineRequest(1, 4, 5));
    await until(() => ffn.pending === 1);
    ffn.fail(new RallyError("unknown-deployment", "not here"));
    expect(b.failures.get(1)?.code).toBe("unknown-deployment");
    await quiet();
    b.expectIdle();
  });

  it("to dispatch at all fail the pass, nothing else", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    ffn.refusal = new RallyError("payload-too-large", "a row does not fit");
    b.engine.admit(engineRequest(1, 4, 5));
    await b.finished([1]);
    expect(b.failures.get(1)?.code).toBe("payload-too-large");
    b.expectIdle();
  });

  it("of the head, and of one sequence's logits, which leave the others of the pass alone", async () => {
    const b = open(local(), { microBatches: () => 1 });
    b.stages.spoil = (logits, numRows) => {
      if (numRows === 2) logits.fill(Number.NaN, 0, fakeConfig.vocabSize);
    };
    const request = engineRequest(2, 4, 3);
    b.engine.admit(engineRequest(1, 4, 3));
    b.engine.admit(request);
    await b.finished([1, 2]);
    expect(b.failures.get(1)?.code).toBe("session-failed");
    expect(b.ids(2)).toEqual(await referenceTokens(request));
    b.stages.headGate = () => {
      throw broken;
    };
    b.engine.admit(engineRequest(3, 4, 3));
    await b.finished([3]);
    expect(b.failures.get(3)).toBe(broken);
    b.expectIdle();
  });
});

describe("close", () => {
  it("in any phase leaves nothing behind and says nothing more", async () => {
    for (const turns of [0, 1, 2, 3, 5, 8]) {
      const ffn = turns % 2 === 0 ? new ManualFfn() : local();
      const b = open(ffn, { microBatches: () => 4 });
      for (const request of requests) b.engine.admit(request);
      await quiet(turns);
      await b.engine.close();
      const said = b.tokens.size;
      expect(b.engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
      if (ffn instanceof ManualFfn) expect(ffn.pending).toBe(0);
      await quiet();
      expect(b.tokens.size).toBe(said);
      expect(b.failures.size).toBe(0);
      expect(() => b.engine.admit(engineRequest(99, 2, 2))).toThrow(expect.objectContaining({ code: "closed" }));
    }
  });

  it("tells of tokens once the next batch is with the experts, and of the last ones at once", async () => {
    const events: string[] = [];
    const experts = local();
    const b = open(
      {
        forward(trip, done) {
          events.push(`layer ${trip.layer}`);
          return experts.forward(trip, done);
        },
        abandon: (microBatch) => experts.abandon(microBatch),
        pending: 0,
        creditsInUse: 0,
      },
      {
        listener: {
          tokens: (tokens) => void events.push(...tokens.map(({ index }) => `token ${index}`)),
          failed: () => undefined,
        },
      },
    );
    b.stages.whole = [0];
    b.engine.admit(engineRequest(1, 3, 3));
    await until(() => events.includes("token 2"));
    // Layer 0 is computed here.
    const twice = ["layer 1", "token 0", "layer 2", "layer 1", "token 1", "layer 2"];
    expect(events).toEqual(["layer 1", "layer 2", ...twice, "token 2"]);
  });

  it("tells of tokens before the next ones where nothing goes to the experts, and before a failure", async () => {
    const b = open(local(), { microBatches: () => 1 });
    b.stages.whole = [0, 1, 2];
    const told: number[] = [];
    b.stages.headGate = () => void told.push(b.ids(1).length);
    b.stages.spoil = (logits) => {
      if (told.length === 4) logits.fill(NaN);
    };
    b.engine.admit(engineRequest(1, 3, 9));
    await until(() => b.failures.has(1));
    expect(told).toEqual([0, 1, 2, 3]);
    expect(b.ids(1)).toHaveLength(3);
  });

  it("pass ids of a later process are above those of an earlier one", async () => {
    const ffn = new ManualFfn();
    const b = open(ffn);
    b.engine.admit(engineRequest(1, 1, 1));
    await until(() => ffn.pending === 1);
    const earlier = ffn.held[0]?.trip.passId ?? 0;
    await b.engine.close();
    const later = new ManualFfn();
    const clock = new SimulatedClock();
    clock.advance(5);
    const next = open(later, { clock });
    next.engine.admit(engineRequest(1, 1, 1));
    await until(() => later.pending === 1);
    expect(later.held[0]?.trip.passId).toBeGreaterThan(earlier + 100);
  });
});
