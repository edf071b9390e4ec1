import { describe, expect, it } from "vitest";
import { combine, type Trip } from "../../../actors/attention/ffn-side.ts";
import { LocalFfn } from "../../../actors/attention/local-ffn.ts";
import type { Pass } from "../../../models/stages.ts";
import { fakeConfig, FakeShard, FakeShared, fakeSpecs } from "../../support/fake-model.ts";
import { quiet } from "../../support/turns.ts";

function trip(microBatch: number, numTokens = 2, layer = 1): Trip {
  const { hiddenSize, topK, numExperts } = fakeConfig;
  const fill = (salt: number) => Float32Array.from({ length: numTokens * hiddenSize }, (_, i) => (i * salt) % 61);
  const pass: Pass = {
    numTokens,
    hidden: new Float32Array(numTokens * hiddenSize),
    residual: fill(microBatch + 3),
    ffnInput: fill(microBatch + 7),
    expertIds: Int32Array.from({ length: numTokens * topK }, (_, i) => (i + microBatch) % numExperts),
    expertWeights: new Float32Array(numTokens * topK).fill(0.5),
  };
  return { passId: 1, microBatch, layer, pass };
}

async function alone(of: Trip): Promise<Float32Array> {
  const { pass, ...rest } = of;
  const copy = { ...rest, pass: { ...pass, hidden: new Float32Array(pass.hidden.length) } };
  await new LocalFfn(fakeSpecs(2).map((spec) => new FakeShard(spec))).forward(copy, () => undefined);
  return copy.pass.hidden;
}

describe("LocalFfn", () => {
  it("adds the shared experts that shards are without", async () => {
    const shards = fakeSpecs(2, fakeConfig, true).map((spec) => new FakeShard(spec));
    const sharedExperts = new FakeShared();
    const made = trip(0, 3, 2);
    await new LocalFfn(shards, sharedExperts).forward(made, () => undefined);
    expect(made.pass.hidden).toEqual(await alone(trip(0, 3, 2)));
    expect(made.pass.residual).toEqual(trip(0, 3, 2).pass.residual);
    expect(sharedExperts.layers).toEqual([2]);
  });

  it("answers with the failure of a shared expert", async () => {
    const sharedExperts = new FakeShared();
    sharedExperts.gate = () => {
      throw new Error("no memory");
    };
    const errors: (Error | undefined)[] = [];
    const ffn = new LocalFfn([new FakeShard({ shard: 0, numShards: 1, experts: [0, 1, 2, 3] })], sharedExperts);
    await ffn.forward(trip(0), (error) => void errors.push(error));
    expect(errors).toEqual([expect.objectContaining({ code: "session-failed" })]);
  });

  it("keeps trips that overlap apart, and answers in order", async () => {
    const shards = fakeSpecs(2).map((spec) => new FakeShard(spec));
    for (const shard of shards) shard.gate = () => quiet(2);
    const ffn = new LocalFfn(shards);
    const trips = [trip(0, 3), trip(1, 1), trip(2, 5)];
    const done: number[] = [];
    for (const each of trips) void ffn.forward(each, () => void done.push(each.microBatch));
    expect(ffn.pending).toBe(3);
    expect(done).toEqual([]);
    await quiet();
    expect(done).toEqual([0, 1, 2]);
    for (const each of trips) expect(each.pass.hidden).toEqual(await alone(each));
    expect(ffn.pending).toBe(0);
  });

  it("neither answers nor writes an abandoned trip, waiting or running", async () => {
    const shards = fakeSpecs(2).map((spec) => new FakeShard(spec));
    for (const shard of shards) shard.gate = () => quiet(2);
    const ffn = new LocalFfn(shards);
    const trips = [trip(0), trip(1), trip(2)];
    const done: number[] = [];
    for (const each of trips) void ffn.forward(each, () => void done.push(each.microBatch));
    await quiet(1);
    ffn.abandon(0);
    ffn.abandon(1);
    expect(ffn.pending).toBe(1);
    await quiet();
    expect(done).toEqual([2]);
    expect(trips[0]?.pass.hidden.every((x) => x === 0)).toBe(true);
    expect(trips[2]?.pass.hidden).toEqual(await alone(trip(2)));
  });

  it("says when it has computed: what it returns resolves after the answer, also when nobody wants one any more", async () => {
    const shard = new FakeShard({ shard: 0, numShards: 1, experts: [0, 1, 2, 3] });
    shard.gate = () => quiet(2);
    const ffn = new LocalFfn([shard]);
    const done: number[] = [];
    await ffn.forward(trip(0), () => void done.push(0));
    expect(done).toEqual([0]);
    const over = ffn.forward(trip(1), () => void done.push(1));
    ffn.abandon(1);
    await over;
    expect(done).toEqual([0]);
  });

  it("hands a shard's failure to its trip alone", async () => {
    const shard = new FakeShard({ shard: 0, numShards: 1, experts: [0, 1, 2, 3] });
    shard.gate = ({ numTokens }) => {
      if (numTokens === 1) throw new Error("the graph broke");
    };
    const ffn = new LocalFfn([shard]);
    const done: [number, string | undefined][] = [];
    for (const each of [trip(0, 1), trip(1, 2)]) {
      void ffn.forward(each, (error) => void done.push([each.microBatch, error?.message]));
    }
    await quiet();
    expect(done).toEqual([
      [0, "the graph broke"],
      [1, undefined],
    ]);
    expect(ffn.pending).toBe(0);
  });
});

describe("combine", () => {
  // 1e8 swallows a 1 that comes alone and keeps the 8 that comes together.
  const [big, small, minus] = [Float32Array.of(1e8), Float32Array.of(3), Float32Array.of(-1e8)];
  const combined = (...outputs: Float32Array[]) => {
    const hidden = new Float32Array(1);
    combine(
      hidden,
      Float32Array.of(0.5),
      outputs.map((output) => output.slice()),
    );
    return hidden[0];
  };

  it("adds in shard order, rounding to f32 each time, then the residual", () => {
    expect(combined(small)).toBe(3.5);
    expect(combined(big, small)).toBe(Math.fround(Math.fround(1e8 + 3) + 0.5));
    expect(combined(big, small, minus)).toBe(Math.fround(1e8 + 3) - 1e8 + 0.5);
    expect(combined(big, minus, small)).toBe(3.5);
    expect(combined(big, small, minus)).not.toBe(combined(big, minus, small));
  });
});
