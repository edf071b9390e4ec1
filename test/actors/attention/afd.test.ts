import { afterEach, describe, expect, it } from "vitest";
import { Engine } from "../../../actors/attention/engine.ts";
import { RemoteFfn } from "../../../actors/attention/remote-ffn.ts";
import type { EngineRequest } from "../../../actors/attention/sequence.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { engineRequest } from "../../support/engine-requests.ts";
import { fakeConfig, FakeShared, FakeStages } from "../../support/fake-model.ts";
import { LossyExperts } from "../../support/lossy-experts.ts";
import { referenceTokens } from "../../support/reference-tokens.ts";
import { quiet } from "../../support/turns.ts";

/** The engine with experts on the other side of a bus that loses, repeats, delays and refuses. */

const subjects = subjectsOf("d");
const requests: EngineRequest[] = Array.from({ length: 16 }, (_, i) =>
  engineRequest(i + 1, 1 + ((i * 19) % 60), 2 + (i % 9), { temperature: i % 2 === 0 ? 0 : 0.8, seed: i }),
);

interface Setting {
  readonly numShards: number;
  /** Shared experts are computed beside the attention. */
  readonly withoutShared: boolean;
  readonly replicas: number;
  readonly microBatches: number;
  readonly creditsPerShard: number;
  readonly maxPayload: number;
  /** Of 100 messages, how many meet each fate. */
  readonly lost: number;
  readonly repeated: number;
  readonly refused: number;
}

let close: () => Promise<void> = async () => undefined;
afterEach(() => close());

async function run(setting: Setting) {
  const clock = new SimulatedClock();
  const bus = new MemoryBus({ clock, maxPayload: setting.maxPayload });
  const experts = new LossyExperts(bus, clock, subjects, setting);
  const bad: string[] = [];
  let retries = 0;
  const ffn = new RemoteFfn({
    bus: bus.connect(),
    clock,
    subjects,
    deployment: "d",
    attentionId: "a0",
    epoch: () => 1,
    numShards: setting.numShards,
    ...(setting.withoutShared && { sharedExperts: new FakeShared() }),
    hiddenSize: fakeConfig.hiddenSize,
    topK: fakeConfig.topK,
    wireDtype: "f32",
    dispatchTimeoutMs: 200,
    creditsPerShard: setting.creditsPerShard,
    observe: {
      computed: () => undefined,
      hop: () => undefined,
      retry: () => void retries++,
      badMessage: (reason) => void bad.push(reason),
    },
  });
  const ids = new Map<number, number[]>(requests.map(({ key }) => [key, []]));
  const ended = new Set<number>();
  const engine = new Engine({
    stages: new FakeStages(),
    ffn,
    clock,
    listener: {
      tokens: (tokens) => {
        for (const { key, id, index, finish } of tokens) {
          expect(ids.get(key)).toHaveLength(index);
          ids.get(key)?.push(id);
          if (finish !== undefined) ended.add(key);
        }
      },
      failed: (key, error) => {
        throw new Error(`request ${key} failed: ${error.message}`);
      },
    },
    observer: { computed: () => undefined, waited: () => undefined },
    maxSequences: 16,
    maxMicroBatches: 4,
    microBatches: () => setting.microBatches,
    prefillTokens: 64,
  });
  close = async () => {
    await engine.close();
    ffn.close();
    await experts.close();
    close = async () => undefined;
  };
  engine.start();
  for (const request of requests) engine.admit(request);
  for (let step = 0; ended.size < requests.length && step < 20_000; step++) {
    await quiet(2);
    if (step % 10 === 0) clock.advance(25);
  }
  expect(ended.size).toBe(requests.length);
  expect(engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
  expect([ffn.pending, ffn.creditsInUse]).toEqual([0, 0]);
  clock.advance(50);
  expect(clock.pending).toBe(0);
  await close();
  return { ids, bad, retries, experts };
}

const calm: Setting = {
  numShards: 1,
  withoutShared: false,
  replicas: 1,
  microBatches: 1,
  creditsPerShard: 4,
  maxPayload: 1 << 20,
  lost: 0,
  repeated: 0,
  refused: 0,
};

describe("attention and experts apart", async () => {
  const expected = new Map(await Promise.all(requests.map(async (r) => [r.key, await referenceTokens(r)] as const)));

  for (const numShards of [1, 2, 3]) {
    for (const microBatches of [1, 2, 4]) {
      it.each([false, true])(
        `same tokens with ${numShards} shards, ${microBatches} micro-batches, shared experts apart: %s`,
        async (withoutShared) => {
          const { ids, bad, retries } = await run({ ...calm, numShards, microBatches, withoutShared });
          expect(ids).toEqual(expected);
          expect(bad).toEqual([]);
          expect(retries).toBe(0);
        },
      );
    }
  }

  it("same tokens with small messages, replicas and few credits", async () => {
    const { ids, experts } = await run({
      ...calm,
      numShards: 2,
      replicas: 3,
      microBatches: 4,
      creditsPerShard: 1,
      maxPayload: 1024 + 5 * 36,
    });
    expect(ids).toEqual(expected);
    expect(experts.largestPart).toBeGreaterThan(3);
  });

  it.each([false, true])(
    "same tokens when messages are lost, repeated, late and refused, %s",
    async (withoutShared) => {
      const { ids, bad, retries, experts } = await run({
        ...calm,
        withoutShared,
        numShards: 2,
        replicas: 2,
        microBatches: 3,
        lost: 8,
        repeated: 10,
        refused: 10,
      });
      expect(ids).toEqual(expected);
      expect(bad).toEqual([]);
      expect(retries).toBeGreaterThan(20);
      expect(experts.numDisturbed).toBeGreaterThan(50);
    },
  );
});
