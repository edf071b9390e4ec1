import { afterEach, describe, expect, it } from "vitest";
import type { Trip } from "../../../actors/attention/ffn-side.ts";
import { RemoteFfn } from "../../../actors/attention/remote-ffn.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { ScriptedExpert } from "../../support/scripted-expert.ts";
import { quiet } from "../../support/turns.ts";

/** One shard with several replicas, each of which does what a test says. */

const subjects = subjectsOf("d");
const TIMEOUT_MS = 1000;

class Bench {
  readonly clock = new SimulatedClock();
  readonly bus = new MemoryBus({ clock: this.clock });
  readonly replicas = new Map<string, ScriptedExpert>();
  readonly bad: string[] = [];
  /** Messages to probe subjects, by subject. */
  readonly asked: string[] = [];
  readonly ended = new Map<number, unknown>();
  readonly ffn: RemoteFfn;
  retries = 0;
  #nextPassId = 1;

  constructor() {
    const watcher = this.bus.connect();
    watcher.subscribe(subjects.probe(), ({ subject }) => void this.asked.push(subject));
    this.ffn = new RemoteFfn({
      bus: this.bus.connect(),
      clock: this.clock,
      subjects,
      deployment: "d",
      attentionId: "a0",
      epoch: () => 1,
      numShards: 1,
      hiddenSize: 4,
      topK: 2,
      wireDtype: "f32",
      dispatchTimeoutMs: TIMEOUT_MS,
      creditsPerShard: 64,
      observe: {
        computed: () => undefined,
        hop: () => undefined,
        retry: () => void this.retries++,
        badMessage: (reason) => void this.bad.push(reason),
      },
    });
  }

  /** Starts replicas that announce themselves. */
  async host(...ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      const replica = new ScriptedExpert(this.bus.connect(), subjects, 0, id);
      this.replicas.set(id, replica);
      replica.say("serving", subjects.experts);
    }
    await quiet(3);
  }

  at(id: string): ScriptedExpert {
    const replica = this.replicas.get(id);
    if (replica === undefined) throw new Error(`no replica ${id}`);
    return replica;
  }

  /** Attempts received so far by each. */
  get attempts(): Record<string, readonly number[]> {
    return Object.fromEntries(
      [...this.replicas].map(([id, { received }]) => [id, received.map(({ batch }) => batch.attempt)]),
    );
  }

  get numReceived(): Record<string, number> {
    return Object.fromEntries([...this.replicas].map(([id, { received }]) => [id, received.length]));
  }

  async start(microBatch = 0, numTokens = 1): Promise<Trip> {
    const floats = (salt: number) => Float32Array.from({ length: numTokens * 4 }, (_, i) => i + salt);
    const pass = {
      numTokens,
      hidden: new Float32Array(numTokens * 4),
      residual: floats(0.5),
      ffnInput: floats(microBatch),
      expertIds: new Int32Array(numTokens * 2),
      expertWeights: new Float32Array(numTokens * 2),
    };
    const trip = { passId: this.#nextPassId++, microBatch, layer: 0, pass };
    this.ended.delete(microBatch);
    void this.ffn.forward(trip, (error) => {
      if (this.ended.has(microBatch)) throw new Error("done twice");
      this.ended.set(microBatch, error ?? "done");
    });
    await quiet(3);
    return trip;
  }

  /** A trip that `id` answers after `ms`. */
  async serve(ms: number, id: string): Promise<void> {
    await this.start();
    await this.advance(ms);
    this.at(id).answer(-1);
    await quiet(3);
    expect(this.ended.get(0)).toBe("done");
  }

  /** Makes 2 ms the usual time, with one answer of each in turn. */
  async warmUp(...ids: readonly string[]): Promise<void> {
    for (let i = 0; i < 40; i++) await this.serve(2, ids[i % ids.length] ?? "");
    for (const { received } of this.replicas.values()) received.length = 0;
    this.retries = 0;
  }

  async advance(ms: number, step = 5): Promise<void> {
    for (let passed = 0; passed < ms; passed += step) {
      this.clock.advance(Math.min(step, ms - passed));
      await quiet(3);
    }
  }

  async expectIdle(): Promise<void> {
    await this.advance(50);
    expect([this.ffn.pending, this.ffn.creditsInUse, this.clock.pending]).toEqual([0, 0, 0]);
    expect(this.bad).toEqual([]);
  }
}

function expectSum({ pass }: Trip): void {
  expect(pass.hidden).toEqual(pass.residual.map((x, i) => x + (pass.ffnInput[i] as number)));
}

let bench: Bench;
async function open(...ids: readonly string[]): Promise<Bench> {
  bench = new Bench();
  await bench.host(...ids);
  return bench;
}
afterEach(() => {
  bench.ffn.close();
  expect(bench.clock.pending).toBe(0);
});

describe("a replica that does not answer", () => {
  it("costs 40 ms where answers take 2: another one is asked too, and the answer is the same", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    const trip = await b.start();
    await b.advance(35);
    expect(b.attempts).toEqual({ r0: [0], r1: [] });
    await b.advance(5);
    expect(b.attempts).toEqual({ r0: [0], r1: [1] });
    expect(b.retries).toBe(1);
    expect(b.ffn.creditsInUse).toBe(1);
    b.at("r1").answer(0);
    await quiet(3);
    expect(b.ended.get(0)).toBe("done");
    expectSum(trip);
    // Much later, and different as no honest answer is: dropped.
    const hidden = trip.pass.hidden.slice();
    b.at("r0").answer(0, 500);
    await quiet(3);
    expect(trip.pass.hidden).toEqual(hidden);
    await b.expectIdle();
  });

  it("counts too when it is the first to answer after all", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    const trip = await b.start();
    await b.advance(60);
    b.at("r0").answer(0);
    await quiet(3);
    expect(b.ended.get(0)).toBe("done");
    expectSum(trip);
    await b.expectIdle();
  });

  it("gets nothing more until it answers a probe, and is probed ever less often", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    const silent = b.at("r0");
    await b.start();
    await b.advance(40);
    b.at("r1").answer(0);
    await quiet(3);
    for (let i = 0; i < 10; i++) await b.serve(2, "r1");
    expect(b.numReceived).toEqual({ r0: 1, r1: 11 });
    expect(b.retries).toBe(1);
    await b.advance(60_000, 50);
    // At 0, 50, 150, 350, 750, 1550 ms, then every 2 s; nobody else is ever asked.
    expect(silent.probes.length).toBeGreaterThan(30);
    expect(silent.probes.length).toBeLessThan(40);
    expect(b.at("r1").probes).toEqual([]);
    expect(b.asked).toHaveLength(1);
    silent.answersProbes = true;
    await b.advance(2000, 50);
    await b.serve(2, "r0");
    await b.serve(2, "r1");
    await b.serve(2, "r0");
    await b.expectIdle();
  });

  it("is taken back when it answers what it was asked, and tried again once its slowness is forgotten", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    await b.start();
    await b.advance(40);
    b.at("r1").answer(0);
    await quiet(3);
    const { length } = b.at("r0").probes;
    b.at("r0").answer(0);
    await quiet(3);
    await b.advance(10_000, 50);
    expect(b.at("r0").probes).toHaveLength(length);
    await b.serve(2, "r0");
  });

  it("is passed over in favour of one that has not been asked, until all have been", async () => {
    const b = await open("r0", "r1", "r2");
    await b.warmUp("r0", "r1", "r2");
    await b.start();
    await b.advance(85);
    expect(
      Object.values(b.attempts)
        .flat()
        .toSorted((x, y) => x - y),
    ).toEqual([0, 1, 2]);
    expect(Object.values(b.numReceived)).toEqual([1, 1, 1]);
    // Now they are only asked again when the dispatch has timed out.
    await b.advance(900);
    expect(Object.values(b.numReceived)).toEqual([1, 1, 1]);
    await b.advance(150);
    expect(Object.values(b.numReceived).reduce((sum, n) => sum + n)).toBe(4);
    b.ffn.abandon(0);
  });

  it("if it is the only one holds the trip, which goes on when it wakes up", async () => {
    const b = await open("r0");
    await b.warmUp("r0");
    const trip = await b.start();
    await b.advance(900);
    expect(b.numReceived).toEqual({ r0: 1 });
    b.at("r0").answer(0);
    await quiet(3);
    expectSum(trip);
    await b.expectIdle();
  });

  it("is not the only one any more as soon as another has started", async () => {
    const b = await open("r0");
    await b.warmUp("r0");
    const trip = await b.start();
    await b.advance(300);
    await b.host("r1");
    await b.advance(25);
    expect(b.attempts).toEqual({ r0: [0], r1: [1] });
    b.at("r1").answer(0);
    await quiet(3);
    expectSum(trip);
  });

  it("when all are slow because there is too much to do, is not made worse by asking twice", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    for (let microBatch = 0; microBatch < 30; microBatch++) await b.start(microBatch);
    await b.advance(40);
    // Both are late, so there is nobody else to ask.
    expect(b.retries).toBeLessThanOrEqual(16);
    for (const replica of b.replicas.values()) for (const index of replica.received.keys()) replica.answer(index);
    await quiet(3);
    expect(b.ended.size).toBe(30);
    await b.expectIdle();
  });

  it("has only so many of its messages sent again at once", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    for (let microBatch = 0; microBatch < 60; microBatch++) await b.start(microBatch);
    expect(b.numReceived).toEqual({ r0: 30, r1: 30 });
    for (let index = 0; index < 30; index++) b.at("r1").answer(index);
    await quiet(3);
    await b.advance(45);
    expect(b.retries).toBeGreaterThanOrEqual(16);
    expect(b.retries).toBeLessThanOrEqual(21);
    for (let microBatch = 0; microBatch < 60; microBatch++) b.ffn.abandon(microBatch);
  });

  it("is waited for as long as is usual for so many rows", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    for (let i = 0; i < 40; i++) {
      await b.start(0, 200);
      await b.advance(100);
      for (const replica of b.replicas.values()) if (replica.received.length > 0) replica.answer(-1);
      await quiet(3);
    }
    b.retries = 0;
    await b.start(0, 200);
    await b.advance(95);
    expect(b.retries).toBe(0);
    await b.advance(60);
    expect(b.retries).toBe(1);
    b.ffn.abandon(0);
  });
});

describe("a replica that answers slowly", () => {
  it("is avoided, and tried again now and then", async () => {
    const b = await open("slow", "quick");
    const take = { slow: 30, quick: 3 };
    const shares: Record<string, number> = { slow: 0, quick: 0 };
    for (let i = 0; i < 400; i++) {
      await b.start();
      const id = b.at("slow").received.length > 0 ? "slow" : "quick";
      if (i >= 50) shares[id] = (shares[id] ?? 0) + 1;
      await b.advance(take[id], 1);
      b.at(id).answer(-1);
      await quiet(3);
      for (const { received } of b.replicas.values()) received.length = 0;
    }
    expect(shares["slow"]).toBeGreaterThan(0);
    expect(shares["slow"]).toBeLessThan(20);
    expect(b.retries).toBe(0);
  });
});

describe("a replica that is gone", () => {
  it("costs nothing when the server says so: the next one is asked at once", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    b.at("r0").stop();
    const trip = await b.start();
    await quiet(3);
    expect(b.attempts).toEqual({ r0: [], r1: [1] });
    b.at("r1").answer(0);
    await quiet(3);
    expectSum(trip);
    await b.serve(2, "r1");
    await b.serve(2, "r1");
    expect(b.retries).toBe(1);
    await b.expectIdle();
  });

  it("is found out by the probe when it dies with work in hand", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    for (const microBatch of [0, 1, 2, 3]) await b.start(microBatch);
    expect(b.numReceived).toEqual({ r0: 2, r1: 2 });
    b.at("r0").stop();
    for (const index of [0, 1]) b.at("r1").answer(index);
    await b.advance(45);
    expect(b.numReceived).toEqual({ r0: 2, r1: 4 });
    for (const index of [2, 3]) b.at("r1").answer(index);
    await quiet(3);
    expect(b.ended.size).toBe(4);
    // Nothing is left to probe.
    await b.expectIdle();
  });

  it("if it was the only one leaves the trip to the first that starts", async () => {
    const b = await open("r0");
    await b.warmUp("r0");
    const trip = await b.start();
    b.at("r0").stop();
    await b.advance(3000);
    expect(b.ended.size).toBe(0);
    await b.host("r1");
    expect(b.at("r1").received).toHaveLength(1);
    b.at("r1").answer(0);
    await quiet(3);
    expectSum(trip);
    await b.expectIdle();
  });
});

describe("a replica that leaves", () => {
  it("gets nothing more, its last answers count, and do not bring it back", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    const trip = await b.start();
    b.at("r0").say("leaving", subjects.experts);
    await quiet(3);
    b.at("r0").answer(0);
    await quiet(3);
    expectSum(trip);
    for (let i = 0; i < 6; i++) await b.serve(2, "r1");
    expect(b.numReceived).toEqual({ r0: 1, r1: 6 });
    expect(b.retries).toBe(0);
    await b.expectIdle();
  });
});

describe("a replica that refuses", () => {
  for (const code of ["overloaded", "stale-epoch", "session-failed"] as const) {
    it(`with ${code} is passed over at once`, async () => {
      const b = await open("r0", "r1");
      await b.warmUp("r0", "r1");
      const trip = await b.start();
      b.at("r0").refuse(0, code, { retryAfterMs: 5000 });
      await quiet(3);
      expect(b.attempts).toEqual({ r0: [0], r1: [1] });
      b.at("r1").answer(0);
      await quiet(3);
      expectSum(trip);
      await b.expectIdle();
    });
  }

  it("as all do, is asked again when it says", async () => {
    const b = await open("r0", "r1");
    await b.warmUp("r0", "r1");
    await b.start();
    b.at("r0").refuse(0, "overloaded", { retryAfterMs: 500 });
    await quiet(3);
    b.at("r1").refuse(0, "overloaded", { retryAfterMs: 200 });
    await b.advance(195);
    expect(b.numReceived).toEqual({ r0: 1, r1: 1 });
    await b.advance(25);
    expect(b.numReceived).toEqual({ r0: 2, r1: 1 });
    b.ffn.abandon(0);
  });
});

describe("who the replicas are", () => {
  it("is asked once, at the start, and after an outage", async () => {
    const b = await open();
    await quiet(3);
    expect(b.asked).toEqual([subjects.probe()]);
    await b.advance(60_000, 1000);
    expect(b.asked).toHaveLength(1);
    expect(b.clock.pending).toBe(0);
  });

  it("is learnt from answers where nobody was announced", async () => {
    const b = await open();
    const quietOnes = ["r0", "r1"].map((id) => new ScriptedExpert(b.bus.connect(), subjects, 0, id));
    for (let i = 0; i < 4; i++) {
      await b.start();
      for (const expert of quietOnes) if (expert.received.length > 0) expert.answer(-1);
      await quiet(3);
      expect(b.ended.get(0)).toBe("done");
    }
    const replies = quietOnes.flatMap(({ received }) => received.map(({ reply }) => reply));
    expect(replies).toContain(subjects.act("a0", 0));
    expect(replies.filter((reply) => reply !== subjects.act("a0", 0)).length).toBeGreaterThan(1);
  });

  it("is not told by what cannot be read, nor by other shards", async () => {
    const b = await open();
    const raw = b.bus.connect();
    raw.publish(subjects.experts, Uint8Array.of(0xc1));
    raw.publish(subjects.experts, encode({ kind: "expert", expertId: "a.>", shard: 0, state: "serving" }));
    raw.publish(subjects.experts, encode({ kind: "expert", expertId: "x", shard: 7, state: "serving" }));
    raw.publish(subjects.experts, encode({ kind: "expert", expertId: "y", shard: 7, state: "leaving" }));
    await quiet(3);
    expect(b.bad).toHaveLength(2);
    await b.host("r0");
    await b.serve(2, "r0");
    expect(b.at("r0").received[0]?.reply).toBe(subjects.act("a0", 0, "r0"));
  });
});
