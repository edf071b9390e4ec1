import { afterEach, describe, expect, it } from "vitest";
import { decodeExpertNotice, decodeExpertResult } from "../../../actors/protocol/decode.ts";
import { MAX_BATCH_ROWS } from "../../../actors/protocol/limits.ts";
import type { ActivationBatch, ExpertNotice, ExpertResult } from "../../../actors/protocol/messages.ts";
import { checkSeal } from "../../../actors/protocol/seal.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { Expert, type ExpertOptions } from "../../../actors/expert/expert.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { fromWireF32, toWireF32, toWireI32, type WireDtype } from "../../../infra/tensor.ts";
import { fakeConfig, FakeShard, fakeSpecs } from "../../support/fake-model.ts";
import { encodedSealed } from "../../support/sealed.ts";
import { quiet } from "../../support/turns.ts";

const subjects = subjectsOf("d");
const { hiddenSize, topK, numExperts } = fakeConfig;
const spec = fakeSpecs(2)[1] ?? { shard: 1, numShards: 2, experts: [1, 3] };

function batchOf(numTokens: number, change: Partial<ActivationBatch> = {}, dtype: Exclude<WireDtype, "i32"> = "f32") {
  const layer = change.layer ?? 1;
  return {
    kind: "activations" as const,
    deployment: "d",
    epoch: 1,
    attentionId: "a0",
    passId: 7,
    microBatch: 2,
    layer,
    part: 0,
    attempt: 3,
    deadline: 1000,
    hidden: toWireF32(hiddenOf(numTokens), [numTokens, hiddenSize], dtype),
    expertIds: toWireI32(
      Int32Array.from({ length: numTokens * topK }, (_, i) => i % numExperts),
      [numTokens, topK],
    ),
    expertWeights: toWireF32(new Float32Array(numTokens * topK).fill(0.5), [numTokens, topK], "f32"),
    ...change,
  };
}

const hiddenOf = (numTokens: number) => Float32Array.from({ length: numTokens * hiddenSize }, (_, i) => (i * 5) % 31);

class Bench {
  readonly clock = new SimulatedClock();
  readonly bus = new MemoryBus({ clock: this.clock });
  readonly client = this.bus.connect();
  readonly ffn = new FakeShard(spec);
  readonly answers: ExpertResult[] = [];
  lastAnswer = new Uint8Array();
  readonly bad: string[] = [];
  readonly lost: string[] = [];
  readonly runs: { readonly layer: number; readonly microBatches: readonly number[]; readonly rows: number }[] = [];
  readonly expert: Expert;

  constructor(options: Partial<ExpertOptions> = {}) {
    this.client.subscribe(subjects.act("a0", 1), ({ payload }) => {
      this.lastAnswer = Uint8Array.from(payload);
      this.answers.push(decodeExpertResult(this.lastAnswer));
    });
    this.expert = new Expert({
      bus: this.bus,
      clock: this.clock,
      subjects,
      deployment: "d",
      expertId: "e0",
      config: fakeConfig,
      ffn: this.ffn,
      epoch: () => 1,
      maxWaitingBatches: 4,
      observer: { ran: (run) => void this.runs.push(run), badMessage: (reason) => void this.bad.push(reason) },
      faulted: ({ code }) => void this.lost.push(code),
      ...options,
    });
  }

  send(batch: object, reply?: string): void {
    this.client.publish(subjects.ffn(1), batch instanceof Uint8Array ? batch : encodedSealed(batch), reply);
  }

  /** What it says of itself to everybody, from now on. */
  notices(): ExpertNotice[] {
    const notices: ExpertNotice[] = [];
    this.client.subscribe(subjects.experts, ({ payload }) => void notices.push(decodeExpertNotice(payload)));
    return notices;
  }

  async drain(expert = this.expert): Promise<void> {
    const drained = expert.drain();
    this.clock.advance(1000);
    await drained;
  }

  async answered(count: number): Promise<readonly ExpertResult[]> {
    await quiet();
    expect(this.answers).toHaveLength(count);
    return this.answers;
  }

  /** The answer a batch must get, computed alone. */
  async alone(numTokens: number, layer = 1): Promise<Float32Array> {
    const output = new Float32Array(numTokens * hiddenSize);
    const { expertIds, expertWeights } = batchOf(numTokens, { layer });
    await new FakeShard(spec).forward(
      {
        layer,
        numTokens,
        hidden: hiddenOf(numTokens),
        expertIds: new Int32Array(Uint8Array.from(expertIds.bytes).buffer),
        expertWeights: new Float32Array(Uint8Array.from(expertWeights.bytes).buffer),
      },
      output,
    );
    return output;
  }
}

function outputOf(result: ExpertResult | undefined): Float32Array {
  if (result?.kind !== "result") throw new Error(`no result: ${JSON.stringify(result)}`);
  return fromWireF32(result.output, result.output.shape);
}

let bench: Bench | undefined;
function open(options: Partial<ExpertOptions> = {}): Bench {
  bench = new Bench(options);
  return bench;
}
afterEach(async () => {
  await bench?.drain();
  expect(bench?.clock.pending ?? 0).toBe(0);
  bench = undefined;
});

describe("Expert", () => {
  it("answers batches of two layers, each with its own header", async () => {
    const b = open();
    b.send(batchOf(3));
    b.send(batchOf(2, { layer: 0, passId: 8, microBatch: 0, part: 5, attempt: 0 }));
    const [first, second] = await b.answered(2);
    expect(first).toMatchObject({ kind: "result", passId: 7, microBatch: 2, layer: 1, part: 0, attempt: 3, shard: 1 });
    expect(first?.expertId).toBe("e0");
    expect(outputOf(first)).toEqual(await b.alone(3));
    expect(second).toMatchObject({ kind: "result", passId: 8, microBatch: 0, layer: 0, part: 5, attempt: 0 });
    expect(outputOf(second)).toEqual(await b.alone(2, 0));
    expect(b.bad).toEqual([]);
  });

  it("answers where it is asked to, else where the attention actor listens", async () => {
    const b = open();
    const elsewhere: string[] = [];
    b.client.subscribe("my.inbox", ({ payload }) => void elsewhere.push(decodeExpertResult(payload).kind));
    b.send(batchOf(1), "my.inbox");
    b.send(batchOf(1, { attentionId: "a0" }));
    await b.answered(1);
    expect(elsewhere).toEqual(["result"]);
  });

  for (const dtype of ["f16", "int8-row"] as const) {
    it(`answers in ${dtype} what came in ${dtype}`, async () => {
      const b = open();
      b.send(batchOf(2, {}, dtype));
      const [result] = await b.answered(1);
      expect(result).toMatchObject({ output: { dtype, shape: [2, hiddenSize] } });
      const exact = await b.alone(2);
      for (const [i, x] of outputOf(result).entries()) expect(Math.abs(x - (exact[i] ?? 0))).toBeLessThan(0.01 * 70);
    });
  }

  it("runs batches of one layer together, each answered with its own rows", async () => {
    const b = open();
    let go = () => {};
    b.ffn.gate = () => new Promise<void>((resolve) => (go = resolve));
    b.send(batchOf(1, { layer: 0, microBatch: 9 }));
    await quiet();
    b.send(batchOf(2, { microBatch: 0 }));
    b.send(batchOf(1, { layer: 2, microBatch: 1 }));
    b.send(batchOf(5, { microBatch: 2 }));
    await quiet();
    expect(b.expert.waiting).toBe(3);
    for (let run = 0; run < 3; run++) {
      go();
      await quiet();
    }
    expect(b.runs.map(({ layer, microBatches, rows }) => [layer, microBatches, rows])).toEqual([
      [0, [9], 1],
      [1, [0, 2], 7],
      [2, [1], 1],
    ]);
    const results = await b.answered(4);
    expect(outputOf(results[1])).toEqual(await b.alone(2));
    expect(outputOf(results[2])).toEqual(await b.alone(5));
    expect(outputOf(results[3])).toEqual(await b.alone(1, 2));
  });

  it("says how long a batch waited and how long it ran", async () => {
    const b = open();
    let go = () => {};
    b.ffn.gate = () => new Promise<void>((resolve) => (go = resolve));
    b.send(batchOf(1, { layer: 0 }));
    b.send(batchOf(1, { layer: 2 }));
    for (let run = 0; run < 2; run++) {
      await quiet();
      b.clock.advance(7);
      go();
    }
    await b.answered(2);
    expect(b.answers).toMatchObject([
      { waitUs: 0, computeUs: 7000 },
      { waitUs: 7000, computeUs: 7000 },
    ]);
  });

  it("shares its queue group with replicas: each batch is run once", async () => {
    const b = open();
    const replica = new Expert({
      bus: b.bus.connect(),
      clock: b.clock,
      subjects,
      deployment: "d",
      expertId: "e1",
      config: fakeConfig,
      ffn: new FakeShard(spec),
      epoch: () => 1,
      maxWaitingBatches: 4,
      observer: { ran: () => undefined, badMessage: () => undefined },
      faulted: () => undefined,
    });
    for (let i = 0; i < 6; i++) b.send(batchOf(1, { attempt: i }));
    const results = await b.answered(6);
    expect(new Set(results.map(({ attempt }) => attempt)).size).toBe(6);
    expect(new Set(results.map(({ expertId }) => expertId))).toEqual(new Set(["e0", "e1"]));
    await b.drain(replica);
  });

  it("runs what arrives in the very moment a run ends", async () => {
    const b = open();
    for (let i = 0; i < 50; i++) {
      b.send(batchOf(1, { attempt: i }));
      await quiet(1 + (i % 4));
    }
    const results = await b.answered(50);
    expect(results.map(({ kind, attempt }) => [kind, attempt])).toEqual(
      Array.from({ length: 50 }, (_, i) => ["result", i]),
    );
  });
});

describe("Expert: refusals", () => {
  const cases: [string, Partial<ActivationBatch>, string, number][] = [
    ["another deployment", { deployment: "other" }, "unknown-deployment", 0],
    ["an older placement", { epoch: 0 }, "stale-epoch", 0],
    ["a newer placement", { epoch: 2 }, "stale-epoch", 0],
    ["a passed deadline", { deadline: 4 }, "deadline-exceeded", 0],
    ["a layer that is not there", { layer: 3 }, "bad-message", 1],
    ["no rows", batchOf(0), "bad-message", 1],
    ["too many rows", batchOf(MAX_BATCH_ROWS + 1), "bad-message", 1],
    ["rows of another width", { hidden: toWireF32(new Float32Array(10), [2, 5], "f32") }, "bad-message", 1],
    ["an expert that is not there", { expertIds: toWireI32(Int32Array.of(0, 1, 2, 4), [2, 2]) }, "bad-message", 1],
    ["an expert below 0", { expertIds: toWireI32(Int32Array.of(0, 1, -1, 2), [2, 2]) }, "bad-message", 1],
  ];
  for (const [what, change, code, numBad] of cases) {
    it(`${what}: ${code}, typed, to the sender`, async () => {
      const b = open();
      b.clock.advance(5);
      b.send(batchOf(2, change));
      const [answer] = await b.answered(1);
      expect(answer).toMatchObject({
        kind: "refused",
        passId: 7,
        microBatch: 2,
        attempt: 3,
        shard: 1,
        error: { code },
      });
      expect(b.bad).toHaveLength(numBad);
      expect(b.ffn.batches).toEqual([]);
      b.send(batchOf(1));
      await b.answered(2);
    });
  }

  it("a dense layer, which is no expert's: bad-message", async () => {
    const b = open({ config: { ...fakeConfig, layerKinds: ["dense", "moe", "moe"] } });
    b.send(batchOf(2, { layer: 0 }));
    expect(await b.answered(1)).toMatchObject([
      { kind: "refused", layer: 0, error: { code: "bad-message", fields: { field: "layer", found: 0 } } },
    ]);
    expect(b.ffn.batches).toEqual([]);
  });

  it("bytes that were changed on their way: corrupted, to the sender, who sends them again", async () => {
    const b = open();
    const good = encodedSealed(batchOf(2));
    const at = Buffer.from(good).indexOf(batchOf(2).hidden.bytes) + 5;
    for (const [from, bit] of [
      [at, 4],
      [good.length - 1, 1],
      [good.length - 4, 0x80],
    ] as const) {
      b.send(good.with(from, (good[from] ?? 0) ^ bit));
    }
    expect(await b.answered(3)).toMatchObject(
      Array.from({ length: 3 }, () => ({ kind: "refused", passId: 7, attempt: 3, error: { code: "corrupted" } })),
    );
    expect(b.bad).toHaveLength(3);
    expect(b.ffn.batches).toEqual([]);
    b.send(good);
    expect((await b.answered(4)).at(-1)).toMatchObject({ kind: "result", passId: 7 });
    expect(() => checkSeal("the answer", b.lastAnswer)).not.toThrow();
  });

  it("counts what cannot be read, and tells the sender if there is one", async () => {
    const b = open();
    const wrong = [
      new Uint8Array(),
      Uint8Array.of(0xc1),
      Uint8Array.from({ length: 5000 }, () => 0x91),
      encode({ kind: "placement" }),
      encode({ ...batchOf(1), attentionId: "a.>" }),
      encode({ ...batchOf(1), hidden: { dtype: "f32", shape: [1, hiddenSize], bytes: new Uint8Array(3) } }),
      encode({ ...batchOf(1), hidden: { dtype: "f32", shape: [1e9, 1e9], bytes: new Uint8Array(3) } }),
      encode({ ...batchOf(1), layer: -1 }),
      encode([batchOf(1)]),
    ];
    for (const bytes of wrong) b.send(bytes);
    await b.answered(0);
    expect(b.bad).toHaveLength(wrong.length);
    for (const bytes of wrong) b.send(bytes, subjects.act("a0", 1));
    const answers = await b.answered(wrong.length);
    for (const answer of answers) expect(answer).toMatchObject({ kind: "refused", error: { code: "bad-message" } });
    b.send(batchOf(1));
    expect((await b.answered(wrong.length + 1)).at(-1)?.kind).toBe("result");
  });

  it("is not led by a reply subject that nobody may publish on", async () => {
    const b = open();
    const raw = b.bus.connect();
    raw.publish(subjects.ffn(1), encodedSealed(batchOf(1)), subjects.ffn(1));
    await quiet();
    // Its own answer came back to it as a message: counted, unanswered.
    expect(b.bad).toHaveLength(1);
  });

  it("beyond its queue answers `overloaded` at once, and when to come back", async () => {
    const b = open({ maxWaitingBatches: 2 });
    let go = () => {};
    b.ffn.gate = () => new Promise<void>((resolve) => (go = resolve));
    for (let i = 0; i < 5; i++) b.send(batchOf(1, { attempt: i, layer: i % 3 }));
    const refused = await b.answered(2);
    expect(refused).toMatchObject([
      { kind: "refused", attempt: 3, error: { code: "overloaded", fields: { limit: 2, retryAfterMs: 20 } } },
      { kind: "refused", attempt: 4, error: { code: "overloaded" } },
    ]);
    for (let run = 0; run < 3; run++) {
      go();
      await quiet();
    }
    await b.answered(5);
    expect(b.bad).toEqual([]);
  });

  it("spares itself what waited past its deadline", async () => {
    const b = open();
    let go = () => {};
    b.ffn.gate = () => new Promise<void>((resolve) => (go = resolve));
    b.send(batchOf(1, { layer: 0 }));
    await quiet();
    b.send(batchOf(1, { layer: 1, deadline: 50 }));
    b.send(batchOf(1, { layer: 1, deadline: 500, attempt: 4 }));
    await quiet();
    b.clock.advance(100);
    go();
    await quiet();
    go();
    const results = await b.answered(3);
    expect(results.map(({ kind, attempt }) => [kind, attempt])).toEqual([
      ["result", 3],
      ["refused", 3],
      ["result", 4],
    ]);
    expect(results[1]).toMatchObject({ error: { code: "deadline-exceeded" } });
    expect(b.ffn.batches).toHaveLength(2);
  });

  it("answers a graph that breaks with `session-failed`, to all of the run, and goes on", async () => {
    const b = open();
    b.ffn.gate = () => {
      throw new Error("no such node");
    };
    b.send(batchOf(1));
    const [answer] = await b.answered(1);
    expect(answer).toMatchObject({ kind: "refused", error: { code: "session-failed", message: "no such node" } });
    expect(b.lost).toEqual([]);
    b.ffn.gate = () => undefined;
    b.send(batchOf(1));
    expect((await b.answered(2)).at(-1)?.kind).toBe("result");
  });

  it.each([
    ["session-failed", "layer-1.onnx: Failed to allocate memory for requested buffer of size 3"],
    ["out-of-memory", "layer-1-device.onnx: CUDA failure 2: out of memory"],
    ["device-lost", "layer-1-device.onnx: a kernel failed, and this process has lost its GPU"],
  ] as const)("is over after %s (%s), and says so to all of the run, in a way that passes", async (code, message) => {
    const b = open();
    b.ffn.gate = () => {
      throw new RallyError(code, message);
    };
    b.send(batchOf(1));
    const [answer] = await b.answered(1);
    expect(answer).toMatchObject({ kind: "refused", error: { code: "closed" } });
    expect(b.lost).toEqual([code]);
  });

  it("drains: says goodbye, answers what waits and what still comes, and then nothing", async () => {
    const b = open();
    const notices = b.notices();
    b.expert.serve();
    let go = () => {};
    b.ffn.gate = () => new Promise<void>((resolve) => (go = resolve));
    b.send(batchOf(1, { layer: 0 }));
    b.send(batchOf(1, { layer: 1 }));
    await quiet();
    let drained = false;
    const drain = b.expert.drain().then(() => (drained = true));
    b.clock.advance(90);
    // From somebody who has not heard yet.
    b.send(batchOf(1, { layer: 2 }));
    await quiet();
    expect(notices.map(({ state }) => state)).toEqual(["serving", "leaving"]);
    for (let run = 0; run < 2; run++) {
      go();
      await quiet();
    }
    b.clock.advance(90);
    await quiet();
    expect(drained).toBe(false);
    b.clock.advance(10);
    b.send(batchOf(1, { layer: 2, attempt: 9 }));
    await quiet();
    expect(drained).toBe(false);
    go();
    await drain;
    await b.answered(3);
    expect(b.expert.waiting).toBe(0);
  });

  it("drains within a second even if somebody never stops asking", async () => {
    const b = open();
    let drained = false;
    const drain = b.expert.drain().then(() => (drained = true));
    for (let i = 0; i < 19; i++) {
      b.send(batchOf(1, { attempt: i }));
      await quiet(10);
      b.clock.advance(50);
    }
    expect(drained).toBe(false);
    b.clock.advance(50);
    await drain;
    await b.answered(19);
  });
});

describe("Expert: presence", () => {
  it("is announced once it serves, after an outage, and to whoever asks", async () => {
    const b = open();
    const notices = b.notices();
    const probe = (subject: string, reply?: string) => b.client.publish(subject, new Uint8Array(), reply);
    probe(subjects.probe());
    await quiet();
    expect(notices).toEqual([]);
    const here = { kind: "expert", expertId: "e0", shard: 1, state: "serving" };
    b.expert.serve();
    b.expert.serve();
    await quiet();
    expect(notices).toEqual([here]);
    probe(subjects.probe());
    await quiet();
    expect(notices).toEqual([here, here]);
    const answers: unknown[] = [];
    b.client.subscribe(subjects.probed("a0", "e0"), ({ payload }) => void answers.push(decodeExpertNotice(payload)));
    probe(subjects.probe("e0"), subjects.probed("a0", "e0"));
    probe(subjects.probe("e1"), subjects.probed("a1", "e1"));
    await quiet();
    expect(answers).toEqual([here]);
    expect(notices).toHaveLength(2);
    b.bus.disconnect();
    b.bus.reconnect();
    await quiet();
    expect(notices).toHaveLength(3);
  });

  it("is heard under a subject of its own", async () => {
    const b = open();
    b.client.publish(subjects.ffn(1, "e0"), encodedSealed(batchOf(1)), subjects.act("a0", 1));
    b.client.publish(subjects.ffn(1, "e1"), encodedSealed(batchOf(1)), subjects.act("a1", 1));
    expect((await b.answered(1)).map(({ kind }) => kind)).toEqual(["result"]);
  });
});
