import { afterEach, describe, expect, it, vi } from "vitest";
import type { Trip } from "../../../actors/attention/ffn-side.ts";
import { RemoteFfn, type RemoteFfnOptions } from "../../../actors/attention/remote-ffn.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { toWireF32, toWireI32 } from "../../../infra/tensor.ts";
import type { Pass, SharedExperts } from "../../../models/stages.ts";
import { ScriptedExpert } from "../../support/scripted-expert.ts";
import { quiet } from "../../support/turns.ts";

const HIDDEN = 4;
const subjects = subjectsOf("d");

class Bench {
  readonly clock = new SimulatedClock();
  readonly bus: MemoryBus;
  readonly experts: ScriptedExpert[] = [];
  readonly hops: { readonly shard: number; readonly expertMs: number; readonly bytes: number }[] = [];
  readonly bad: string[] = [];
  readonly failures: string[] = [];
  readonly computed: string[] = [];
  retries = 0;
  epoch = 1;
  readonly ffn: RemoteFfn;
  /** By micro-batch: "done" or the error. */
  readonly ended = new Map<number, "done" | RallyError>();

  constructor(
    options: Partial<RemoteFfnOptions> & { readonly maxPayload?: number; readonly numExperts?: number } = {},
  ) {
    const { maxPayload = 1 << 20, numExperts = 2, ...rest } = options;
    this.bus = new MemoryBus({ clock: this.clock, maxPayload });
    for (let shard = 0; shard < numExperts; shard++) this.experts.push(this.host(shard));
    this.ffn = new RemoteFfn({
      bus: this.bus,
      clock: this.clock,
      subjects,
      deployment: "d",
      attentionId: "a0",
      epoch: () => this.epoch,
      numShards: 2,
      hiddenSize: HIDDEN,
      topK: 2,
      wireDtype: "f32",
      dispatchTimeoutMs: 200,
      creditsPerShard: 4,
      observe: {
        computed: (what, microBatch, layer) => void this.computed.push(`${what} ${microBatch} ${layer}`),
        hop: (hop) => void this.hops.push(hop),
        retry: () => void this.retries++,
        badMessage: (reason) => void this.bad.push(reason),
      },
      ...rest,
    });
  }

  host(shard: number): ScriptedExpert {
    return new ScriptedExpert(this.bus.connect(), subjects, shard);
  }

  expert(shard: number): ScriptedExpert {
    const expert = this.experts[shard];
    if (expert === undefined) throw new Error(`no shard ${shard}`);
    return expert;
  }

  start(begun: Trip): Trip {
    const { microBatch } = begun;
    this.ended.delete(microBatch);
    const here = this.ffn.forward(begun, (error) => {
      if (this.ended.has(microBatch)) throw new Error("done twice");
      this.ended.set(microBatch, error === undefined ? "done" : RallyError.from(error));
    });
    expect(this.ended.has(microBatch)).toBe(false);
    Promise.resolve(here).catch((thrown: unknown) => void this.failures.push(String(thrown)));
    return begun;
  }

  /** Lets what was sent arrive, then time pass in steps of the tick. */
  async advance(ms: number): Promise<void> {
    await quiet(3);
    for (let passed = 0; passed < ms; passed += 25) {
      this.clock.advance(Math.min(25, ms - passed));
      await quiet(3);
    }
  }

  async expectIdle(): Promise<void> {
    await this.advance(50);
    expect(this.ffn.pending).toBe(0);
    expect(this.ffn.creditsInUse).toBe(0);
    expect(this.clock.pending).toBe(0);
  }
}

let nextPassId = 1;
function trip(microBatch: number, numTokens = 2, layer = 0): Trip {
  const floats = (length: number, salt: number) => Float32Array.from({ length }, (_, i) => i + salt * 100);
  const pass: Pass = {
    numTokens,
    hidden: new Float32Array(numTokens * HIDDEN),
    residual: floats(numTokens * HIDDEN, 1),
    ffnInput: floats(numTokens * HIDDEN, microBatch + 1),
    expertIds: new Int32Array(numTokens * 2),
    expertWeights: new Float32Array(numTokens * 2),
  };
  return { passId: nextPassId++, microBatch, layer, pass };
}

/** Residual, plus 1 × and 2 × the input, plus the offsets of the answers. */
function expected({ pass }: Trip, offset = 0): Float32Array {
  return pass.residual.map((x, i) => x + 3 * (pass.ffnInput[i] as number) + offset);
}

let bench: Bench | undefined;
function open(options: ConstructorParameters<typeof Bench>[0] = {}): Bench {
  bench = new Bench(options);
  return bench;
}
afterEach(() => {
  bench?.ffn.close();
  bench = undefined;
});

describe("RemoteFfn", () => {
  it("dispatches to every shard and combines in shard order whatever answers first", async () => {
    for (const order of [
      [0, 1],
      [1, 0],
    ]) {
      const b = open();
      const t = b.start(trip(0));
      await quiet();
      expect(b.ffn.pending).toBe(2);
      expect(b.ffn.creditsInUse).toBe(2);
      expect(b.expert(0).received[0]?.batch).toMatchObject({
        deployment: "d",
        epoch: 1,
        attentionId: "a0",
        passId: t.passId,
        microBatch: 0,
        layer: 0,
        part: 0,
        attempt: 0,
        deadline: 400,
      });
      // The sum with 1e8 shows the order of the additions.
      for (const shard of order) b.expert(shard).answer(0, shard === 0 ? 1e8 : 3);
      await quiet();
      expect(b.ended.get(0)).toBe("done");
      const sum = t.pass.ffnInput.map((x) => Math.fround(x + 1e8));
      expect(t.pass.hidden).toEqual(
        t.pass.residual.map((x, i) => x + Math.fround((sum[i] as number) + 2 * (t.pass.ffnInput[i] as number) + 3)),
      );
      expect(b.hops.map(({ shard, expertMs }) => [shard, expertMs])).toEqual(order.map((shard) => [shard, 3]));
      expect(b.hops.every(({ bytes }) => bytes > 64)).toBe(true);
      expect(b.retries).toBe(0);
      await b.expectIdle();
    }
  });

  it("splits a trip that exceeds max_payload, and puts the parts together", async () => {
    // Two rows a message.
    const b = open({ maxPayload: 1024 + 2 * (HIDDEN * 4 + 4 + 16) });
    const t = b.start(trip(0, 5));
    await quiet();
    expect(b.expert(1).received.map(({ batch }) => [batch.part, batch.hidden.shape])).toEqual([
      [0, [1, HIDDEN]],
      [1, [2, HIDDEN]],
      [2, [2, HIDDEN]],
    ]);
    for (const index of [2, 0, 1]) for (const shard of [1, 0]) b.expert(shard).answer(index);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("refuses at once what fits no message, and keeps nothing of it", async () => {
    const b = open({ maxPayload: 1024 + 35 });
    expect(() => b.start(trip(0))).toThrow(expect.objectContaining({ code: "payload-too-large" }));
    await b.expectIdle();
  });

  it("keeps to its credits and sends the rest as they return", async () => {
    const b = open({ creditsPerShard: 1 });
    const trips = [trip(0), trip(1), trip(2)].map((t) => b.start(t));
    await quiet();
    expect(b.expert(0).received).toHaveLength(1);
    expect(b.ffn.pending).toBe(6);
    expect(b.ffn.creditsInUse).toBe(2);
    for (const index of [0, 1, 2]) {
      for (const shard of [0, 1]) b.expert(shard).answer(index);
      await quiet();
    }
    for (const t of trips) expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("does not hand a returning credit to a leg that is given up with it", async () => {
    const b = open({ creditsPerShard: 1, maxPayload: 1024 + 36 });
    b.start(trip(0, 4));
    await quiet();
    b.ffn.abandon(0);
    await quiet();
    expect(b.expert(0).received).toHaveLength(1);
    await b.expectIdle();
  });

  it("keeps several micro-batches apart", async () => {
    const b = open();
    const trips = [trip(0, 3), trip(1, 2, 1)].map((t) => b.start(t));
    await quiet();
    expect(b.expert(0).received[1]?.batch).toMatchObject({ microBatch: 1, layer: 1, expertIds: { shape: [2, 2] } });
    b.expert(1).answer(1);
    b.expert(0).answer(1);
    await quiet();
    expect([...b.ended.keys()]).toEqual([1]);
    b.expert(0).answer(0);
    b.expert(1).answer(0);
    await quiet();
    for (const t of trips) expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });
});

describe("RemoteFfn: shared experts here", () => {
  class Shared implements SharedExperts {
    readonly calls: { readonly layer: number; readonly sentBefore: number }[] = [];
    end: (error?: Error) => void = () => undefined;
    #bench: () => Bench;

    constructor(ofBench: () => Bench) {
      this.#bench = ofBench;
    }

    async forward(pass: Pass, layer: number, output: Float32Array): Promise<void> {
      this.calls.push({ layer, sentBefore: this.#bench().ffn.creditsInUse });
      await new Promise<void>((resolve, reject) => {
        this.end = (error) => (error === undefined ? resolve() : reject(error));
      });
      for (const [i, x] of pass.residual.entries()) output[i] = x + 1000;
    }

    async release(): Promise<void> {}
  }

  function openShared(): { readonly b: Bench; readonly shared: Shared } {
    const shared = new Shared(() => b);
    const b = open({ sharedExperts: shared });
    return { b, shared };
  }

  it("are computed once the batch is sent, and added whatever is there first", async () => {
    for (const isAnsweredFirst of [true, false]) {
      const { b, shared } = openShared();
      const t = b.start(trip(0, 2, 3));
      await quiet();
      expect(shared.calls).toEqual([{ layer: 3, sentBefore: 2 }]);
      if (!isAnsweredFirst) shared.end();
      await quiet();
      for (const shard of [1, 0]) b.expert(shard).answer(0);
      await quiet();
      if (isAnsweredFirst) {
        expect(b.ended.size).toBe(0);
        shared.end();
        await quiet();
      }
      expect(b.ended.get(0)).toBe("done");
      expect(t.pass.hidden).toEqual(expected(t, 1000));
      // As it was: the trip may have to be made again.
      expect(t.pass.residual).toEqual(trip(0, 2).pass.residual);
      expect(b.computed).toEqual(["shared 0 3"]);
      await b.expectIdle();
    }
  });

  it("are computed once for a trip whose answers are asked for again", async () => {
    const { b, shared } = openShared();
    const t = b.start(trip(0));
    await quiet();
    shared.end();
    await b.advance(200);
    for (const shard of [0, 1]) b.expert(shard).answer(1);
    await quiet();
    expect(t.pass.hidden).toEqual(expected(t, 1000));
    expect(shared.calls).toHaveLength(1);
    await b.expectIdle();
  });

  it("that end after their trip was abandoned write and answer nothing", async () => {
    const { b, shared } = openShared();
    const t = b.start(trip(0));
    await quiet();
    b.ffn.abandon(0);
    shared.end();
    await quiet();
    for (const shard of [0, 1]) b.expert(shard).answer(0);
    await quiet();
    expect(b.ended.size).toBe(0);
    expect(t.pass.hidden.every((x) => x === 0)).toBe(true);
    await b.expectIdle();
  });

  it("that fail are the failure of whoever waits for them", async () => {
    const { b, shared } = openShared();
    b.start(trip(0));
    await quiet();
    shared.end(new RallyError("session-failed", "no memory"));
    await quiet();
    expect(b.failures).toEqual([expect.stringContaining("no memory")]);
    b.ffn.abandon(0);
    await b.expectIdle();
  });
});

describe("RemoteFfn: silence", () => {
  it("asks again, as a new attempt with a new deadline, only where an answer is missing", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    await b.advance(175);
    expect(b.expert(1).received).toHaveLength(1);
    await b.advance(25);
    expect(b.expert(0).received).toHaveLength(1);
    expect(b.expert(1).received.map(({ batch }) => [batch.attempt, batch.deadline])).toEqual([
      [0, 400],
      [1, 600],
    ]);
    expect(b.retries).toBe(1);
    b.expert(1).answer(1);
    await quiet();
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("grows patient with time, and gives experts as much longer to answer", async () => {
    const b = open();
    b.start(trip(0));
    await b.advance(10_000);
    const sent = b.expert(0).received.map(({ batch }) => batch.deadline);
    // At 0, 200, 400, 600, 800, 1200, 2000, 3600, 6800, 10000 ms.
    expect(sent).toEqual([400, 600, 800, 1000, 1600, 2800, 5200, 10_000, 13_200, 16_400]);
    b.ffn.abandon(0);
    await b.expectIdle();
  });

  it("takes a late answer to an earlier attempt, and drops the later one as a duplicate", async () => {
    const b = open();
    const t = b.start(trip(0));
    await b.advance(200);
    b.expert(0).answer(0);
    b.expert(1).answer(0);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    const hidden = t.pass.hidden.slice();
    b.expert(0).answer(1, 77);
    b.expert(1).answer(1, 77);
    b.expert(1).answer(0, 77);
    await quiet();
    expect(t.pass.hidden).toEqual(hidden);
    expect(b.hops).toHaveLength(2);
    expect(b.bad).toEqual([]);
    await b.expectIdle();
  });

  it("drops a duplicate while other shards are missing", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    b.expert(0).answer(0, 500);
    await quiet();
    expect(b.ended.size).toBe(0);
    b.expert(1).answer(0);
    await quiet();
    expect(t.pass.hidden).toEqual(expected(t));
  });

  it("drops answers of other passes, layers, parts, shards and micro-batches", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    for (const change of [
      { passId: t.passId + 1 },
      { layer: 1 },
      { part: 1 },
      { part: 65_535 },
      { shard: 2 },
      { shard: 65_535 },
      { microBatch: 1 },
    ]) {
      b.expert(0).answer(0, 500, change);
    }
    await quiet();
    expect(b.ffn.pending).toBe(2);
    b.expert(0).answer(0);
    b.expert(1).answer(0);
    await quiet();
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("drops what comes after a trip was abandoned, also for the next trip of that micro-batch", async () => {
    const b = open();
    const first = b.start(trip(0));
    await quiet();
    b.ffn.abandon(0);
    expect(b.ffn.pending).toBe(0);
    expect(b.ffn.creditsInUse).toBe(0);
    const second = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0, 500);
    b.expert(1).answer(0, 500);
    await quiet();
    expect(b.ended.size).toBe(0);
    b.expert(0).answer(1);
    b.expert(1).answer(1);
    await quiet();
    expect(second.pass.hidden).toEqual(expected(second));
    expect(first.pass.hidden.every((x) => x === 0)).toBe(true);
    await b.expectIdle();
  });
});

describe("RemoteFfn: nobody there", () => {
  it("hears so at once, asks every 100 ms and goes on as soon as somebody is", async () => {
    const b = open({ numExperts: 1, dispatchTimeoutMs: 5000 });
    const t = b.start(trip(0));
    await quiet();
    expect(b.retries).toBe(0);
    await b.advance(1000);
    expect(b.retries).toBe(10);
    const late = b.host(1);
    await b.advance(100);
    expect(late.received).toHaveLength(1);
    b.expert(0).answer(0);
    late.answer(0);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    expect(b.bad).toEqual([]);
    await b.expectIdle();
  });

  it("holds back while the connection is broken, and sends everything again when it is back", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.bus.disconnect();
    const publish = vi.spyOn(b.bus, "publish");
    const during = b.start(trip(1));
    await b.advance(3000);
    expect(publish).not.toHaveBeenCalled();
    expect(b.retries).toBe(0);
    b.bus.reconnect();
    await quiet();
    expect(b.expert(0).received.map(({ batch }) => [batch.microBatch, batch.attempt])).toEqual([
      [0, 0],
      [0, 1],
      [1, 1],
    ]);
    for (const shard of [0, 1]) for (const index of [1, 2]) b.expert(shard).answer(index);
    await quiet();
    for (const each of [t, during]) expect(each.pass.hidden).toEqual(expected(each));
    await b.expectIdle();
  });

  it("fails the trip when the bus takes nothing any more, after `forward` has returned", async () => {
    const b = open();
    await b.bus.close();
    b.start(trip(0));
    await quiet();
    expect(b.ended.get(0)).toMatchObject({ code: "closed" });
    await b.expectIdle();
  });
});

describe("RemoteFfn: refusals", () => {
  it("comes back when an overloaded expert says", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    for (let attempt = 0; attempt < 20; attempt++) {
      b.expert(1).refuse(-1, "overloaded", { retryAfterMs: 25 });
      await quiet();
      expect(b.expert(1).received).toHaveLength(attempt + 1);
      await b.advance(25);
      expect(b.expert(1).received).toHaveLength(attempt + 2);
    }
    b.expert(1).answer(-1);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  for (const code of ["bad-message", "unknown-deployment", "session-failed", "internal"] as const) {
    it(`believes ${code} the third time, and fails the trip with it`, async () => {
      const b = open();
      b.start(trip(0));
      await quiet();
      b.expert(0).answer(0);
      for (let time = 0; time < 3; time++) {
        expect(b.ended.size).toBe(0);
        b.expert(1).refuse(-1, code, { field: "hidden" });
        await b.advance(50);
      }
      expect(b.ended.get(0)).toMatchObject({ code, fields: { field: "hidden" } });
      await b.expectIdle();
    });
  }

  it("gives an expert more time when it says that there was too little", async () => {
    const b = open();
    b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    const given: number[] = [];
    for (let time = 0; time < 9; time++) {
      given.push((b.expert(1).received.at(-1)?.batch.deadline ?? 0) - b.clock.now());
      b.expert(1).refuse(-1, "deadline-exceeded");
      await b.advance(50);
    }
    expect(given).toEqual([400, 400, 400, 400, 800, 1600, 3200, 6400, 6400]);
    expect(b.ended.size).toBe(0);
  });

  it("survives two of them", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    for (let time = 0; time < 2; time++) {
      b.expert(1).refuse(-1, "session-failed");
      await b.advance(50);
    }
    b.expert(1).answer(-1);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
  });

  it("asks again at once for an answer that was changed on its way, as often as it takes", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0);
    for (let time = 0; time < 10; time++) {
      b.expert(1).answerDamaged(-1);
      await b.advance(25);
      expect(b.expert(1).received).toHaveLength(time + 2);
    }
    expect(b.bad).toHaveLength(10);
    b.expert(1).answer(-1);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("ignores a refusal of an attempt that a later one has overtaken", async () => {
    const b = open();
    b.start(trip(0));
    await b.advance(200);
    for (let time = 0; time < 5; time++) b.expert(1).refuse(0, "bad-message");
    await b.advance(100);
    expect(b.ended.size).toBe(0);
    expect(b.expert(1).received).toHaveLength(2);
  });

  it("fails the trip on answers of a wrong shape, each counted, none obeyed", async () => {
    for (const output of [
      toWireF32(new Float32Array(HIDDEN), [1, HIDDEN], "f32"),
      toWireF32(new Float32Array(2 * HIDDEN), [HIDDEN, 2], "f32"),
    ]) {
      const b = open();
      b.start(trip(0));
      await quiet();
      b.expert(0).answer(0);
      for (let time = 0; time < 3; time++) {
        b.expert(1).answer(-1, 0, { output });
        await b.advance(50);
      }
      expect(b.bad).toHaveLength(3);
      expect(b.ended.get(0)).toMatchObject({ code: "bad-message" });
      await b.expectIdle();
    }
  });

  it("counts bytes that are no message, and goes on", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    for (const bytes of [[], [0xc1], [0x81, 0xa4], Array.from({ length: 500 }, () => 0x91)]) {
      b.expert(0).sendRaw(0, Uint8Array.from(bytes));
    }
    b.expert(0).answer(0, 0, { output: toWireI32(new Int32Array(2 * HIDDEN), [2, HIDDEN]) });
    await quiet();
    expect(b.bad).toHaveLength(5);
    b.expert(0).answer(0);
    b.expert(1).answer(0);
    await quiet();
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });
});

describe("RemoteFfn: placement", () => {
  it("waits for the placement that an expert already has", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(0).answer(0, 900);
    for (let time = 0; time < 10; time++) {
      b.expert(1).refuse(-1, "stale-epoch");
      await b.advance(50);
    }
    expect(b.ended.size).toBe(0);
    b.epoch = 2;
    b.expert(1).refuse(-1, "stale-epoch");
    await quiet();
    // What shard 0 has answered was of the old placement: everything is asked anew.
    const again = [b.expert(0), b.expert(1)].map(({ received }) => received.at(-1)?.batch);
    expect(again.map((batch) => batch?.epoch)).toEqual([2, 2]);
    expect(b.ffn.pending).toBe(2);
    b.expert(0).answer(0, 900);
    await quiet();
    expect(b.ffn.pending).toBe(2);
    b.expert(0).answer(-1);
    b.expert(1).answer(-1);
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });

  it("notices a new placement when it asks again", async () => {
    const b = open();
    const t = b.start(trip(0));
    await quiet();
    b.expert(1).answer(0, 900);
    await quiet();
    b.epoch = 7;
    await b.advance(200);
    for (const shard of [0, 1]) {
      expect(b.expert(shard).received.at(-1)?.batch.epoch).toBe(7);
      b.expert(shard).answer(-1);
    }
    await quiet();
    expect(b.ended.get(0)).toBe("done");
    expect(t.pass.hidden).toEqual(expected(t));
    await b.expectIdle();
  });
});
