import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openAttentionStages, openFfnShard, shardSpecs } from "../../../models/load.ts";
import { Reference } from "../../../models/reference.ts";
import { Forward } from "../../support/forward.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";

const VOCAB = SMALL_MODEL.vocab_size;
let dir: string;
let reference: Reference;

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-stages-"));
  writeRandomCheckpoint(dir, SMALL_MODEL);
  reference = new Reference(dir);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function open(numShards = 1, numThreads = 1): Promise<Forward> {
  const options = { numThreads, cacheDir: path.join(dir, "cache") };
  const shards = shardSpecs(reference.config, numShards).map((spec) => openFfnShard(dir, spec, options));
  return new Forward(await openAttentionStages(dir, options), await Promise.all(shards));
}

/** Seeded token ids, another text for each `text`. */
function tokens(count: number, text = 0): number[] {
  return Array.from({ length: count }, (_, i) => ((i + 3) * (i + 17) * (text * 2 + 7) + text) % VOCAB);
}

/** Largest difference relative to the largest magnitude of what is expected. */
function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [difference, magnitude] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs((found[i] as number) - (expected[i] as number)));
    magnitude = Math.max(magnitude, Math.abs(expected[i] as number));
  }
  return difference / magnitude;
}

/** Logits of every token of one sequence that is prefilled in chunks of `chunk`, alone in slot `slot`. [count, VOCAB] */
async function prefill(forward: Forward, ids: readonly number[], chunk: number, slot = 0, stride = 64) {
  const kv = forward.cache(slot + 1);
  kv.reserve(stride, slot + 1);
  const logits: number[] = [];
  for (let past = 0; past < ids.length; past += chunk) {
    const part = ids.slice(past, past + chunk);
    const pass = await forward.pass(kv, part, [past], { firstSlot: slot });
    logits.push(...(await forward.head(pass, [...part.keys()])));
  }
  return new Float32Array(logits);
}

describe("the stages against the reference", () => {
  it("computes the same logits and chooses the same experts", async () => {
    const ids = tokens(150);
    const expected = reference.forward(ids);
    const forward = await open();
    const kv = forward.cache(1);
    const routes: { ids: Int32Array; weights: Float32Array }[] = [];
    const pass = await forward.pass(kv, ids, [0], {
      observe: ({ expertIds, expertWeights }, layer) => {
        if (reference.config.layerKinds[layer] === "moe") {
          routes.push({ ids: expertIds.slice(), weights: expertWeights.slice() });
        }
      },
    });
    const logits = await forward.head(pass, [...ids.keys()]);
    expect(relativeError(logits, expected.logits)).toBeLessThan(1e-5);
    for (const [i, route] of routes.entries()) {
      expect(route.ids).toEqual(expected.expertIds[i]);
      expect(relativeError(route.weights, expected.expertWeights[i] as Float64Array)).toBeLessThan(1e-5);
    }
    expect(routes.length).toBe(expected.expertIds.length);
    await forward.release();
  });

  it.each([2, 3, 5])("is close to it with %i shards", async (numShards) => {
    const ids = tokens(20);
    const forward = await open(numShards);
    const logits = await prefill(forward, ids, 20);
    expect(relativeError(logits, reference.forward(ids).logits)).toBeLessThan(1e-5);
    await forward.release();
  });
});

describe.each([1, 2])("bitwise the same with %i threads", (numThreads) => {
  const ids = tokens(200);
  let forward: Forward;
  let whole: Float32Array;

  beforeAll(async () => {
    forward = await open(1, numThreads);
    whole = await prefill(forward, ids, ids.length, 0, 256);
  });

  afterAll(() => forward.release());

  it.each([1, 2, 7, 64, 130])("in chunks of %i", async (chunk) => {
    expect(await prefill(forward, ids, chunk, 0, 256)).toEqual(whole);
  });

  // With a small stride in one run, with a large one each sequence in a run of its own.
  it.each([256, 320, 448, 1024])("three prompts at once with a stride of %i", async (stride) => {
    const kv = forward.cache(3);
    kv.reserve(stride, 3);
    const logits: number[][] = [[], [], []];
    for (let past = 0; past < 200; past += 50) {
      const part = ids.slice(past, past + 50);
      const pass = await forward.pass(kv, [...part, ...tokens(50, past), ...part], [past, past, past]);
      const all = await forward.head(pass, [...Array(150).keys()]);
      for (const [i, rows] of logits.entries()) rows.push(...all.subarray(i * 50 * VOCAB, (i + 1) * 50 * VOCAB));
    }
    expect(new Float32Array(logits[0] ?? [])).toEqual(whole);
    expect(new Float32Array(logits[2] ?? [])).toEqual(whole);
  });

  it("while the stride grows and in any slot", async () => {
    expect(await prefill(forward, ids, 16, 5)).toEqual(whole);
  });

  it.each([192, 256, 448, 1024])("alone and in a batch of 32 of different lengths, stride %i", async (stride) => {
    const texts = Array.from({ length: 32 }, (_, i) => tokens(2 + i * 6, i));
    const alone: Float32Array[] = [];
    for (const text of texts) alone.push((await prefill(forward, text, text.length)).slice(-VOCAB));
    const kv = forward.cache(32);
    kv.reserve(stride, 32);
    for (const [slot, text] of texts.entries()) {
      await forward.pass(kv, text.slice(0, -1), [0], { firstSlot: slot });
    }
    const lasts = texts.map((text) => text.at(-1) as number);
    const pass = await forward.pass(
      kv,
      lasts,
      texts.map((text) => text.length - 1),
    );
    const together = await forward.head(pass, [...texts.keys()]);
    for (const i of texts.keys()) {
      expect(together.slice(i * VOCAB, (i + 1) * VOCAB), `sequence ${i}`).toEqual(alone[i]);
    }
  });

  it("when stale rows of an earlier sequence lie beyond the end", async () => {
    const kv = forward.cache(1);
    await forward.pass(kv, tokens(200, 9), [0]);
    const pass = await forward.pass(kv, ids.slice(0, 90), [0]);
    expect((await forward.head(pass, [89])).slice()).toEqual(whole.slice(89 * VOCAB, 90 * VOCAB));
  });
});

describe("a shard", () => {
  it("computes a row the same alone and in a coalesced batch", async () => {
    const { hiddenSize, topK, numExperts } = reference.config;
    const options = { numThreads: 1, cacheDir: path.join(dir, "cache") };
    const [, spec] = shardSpecs(reference.config, 2);
    if (spec === undefined) throw new Error("two shards");
    const shard = await openFfnShard(dir, spec, options);
    const numTokens = 70;
    const hidden = Float32Array.from({ length: numTokens * hiddenSize }, (_, i) => Math.sin(i * 1.7));
    const expertIds = Int32Array.from({ length: numTokens * topK }, (_, i) => (Math.floor(i / topK) + i) % numExperts);
    const expertWeights = Float32Array.from(expertIds, (id, i) => 1 / (2 + id + (i % topK)));
    for (const layer of reference.config.layerKinds.flatMap((kind, i) => (kind === "moe" ? [i] : []))) {
      const rows = (from: number, to: number) => ({
        layer,
        numTokens: to - from,
        hidden: hidden.subarray(from * hiddenSize, to * hiddenSize),
        expertIds: expertIds.subarray(from * topK, to * topK),
        expertWeights: expertWeights.subarray(from * topK, to * topK),
      });
      const together = new Float32Array(numTokens * hiddenSize);
      await shard.forward(rows(0, numTokens), together);
      for (const [from, to] of [
        [0, 1],
        [1, 2],
        [2, 20],
        [20, 70],
      ] as const) {
        const alone = new Float32Array((to - from) * hiddenSize);
        await shard.forward(rows(from, to), alone);
        expect(alone, `layer ${layer}, rows ${from} to ${to}`).toEqual(
          together.slice(from * hiddenSize, to * hiddenSize),
        );
      }
    }
    await shard.release();
  });
});
