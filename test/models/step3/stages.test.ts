import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openAttentionStages, openFfnShard, openSharedExperts, shardSpecs } from "../../../models/load.ts";
import { Reference } from "../../../models/reference.ts";
import { Forward } from "../../support/forward.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";
import { prefill, stagesContract, tokens } from "./stages.contract.ts";

let dir: string;
let reference: Reference;

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-stages-"));
  writeRandomCheckpoint(dir, SMALL_MODEL);
  reference = new Reference(dir);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function open(numShards = 1, numThreads = 1, withoutShared = false): Promise<Forward> {
  const options = { numThreads, cacheDir: path.join(dir, "cache") };
  const shards = shardSpecs(reference.config, numShards).map((spec) =>
    openFfnShard(dir, { ...spec, withoutShared }, options),
  );
  const sharedExperts = withoutShared ? await openSharedExperts(dir, options) : undefined;
  return new Forward(await openAttentionStages(dir, options), await Promise.all(shards), sharedExperts);
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

  it.each([
    [2, false],
    [3, false],
    [5, false],
    [1, true],
    [3, true],
  ])("is close to it with %i shards, shared experts apart: %s", async (numShards, withoutShared) => {
    const ids = tokens(20);
    const forward = await open(numShards, 1, withoutShared);
    const logits = await prefill(forward, ids, 20);
    expect(relativeError(logits, reference.forward(ids).logits)).toBeLessThan(1e-5);
    await forward.release();
  });
});

for (const numThreads of [1, 2]) stagesContract(`on the CPU, ${numThreads} threads`, () => open(1, numThreads));
stagesContract("on the CPU, shared experts apart", () => open(1, 1, true));

describe("a shard", () => {
  it("that has no experts adds nothing where shared experts are apart", async () => {
    const { hiddenSize, topK, layerKinds } = reference.config;
    const spec = { shard: 1, numShards: 2, experts: [], withoutShared: true };
    const shard = await openFfnShard(dir, spec, { numThreads: 1, cacheDir: path.join(dir, "cache") });
    const batch = {
      layer: layerKinds.indexOf("moe"),
      numTokens: 3,
      hidden: new Float32Array(3 * hiddenSize).fill(1),
      expertIds: new Int32Array(3 * topK),
      expertWeights: new Float32Array(3 * topK).fill(0.5),
    };
    const output = new Float32Array(3 * hiddenSize).fill(NaN);
    await shard.forward(batch, output);
    expect(output).toEqual(new Float32Array(3 * hiddenSize));
    await shard.release();
  });

  it.each([false, true])(
    "without the shared one (%s) computes a row the same alone and in a batch",
    async (withoutShared) => {
      const { hiddenSize, topK, numExperts } = reference.config;
      const options = { numThreads: 1, cacheDir: path.join(dir, "cache") };
      const [, spec] = shardSpecs(reference.config, 2);
      if (spec === undefined) throw new Error("two shards");
      const shard = await openFfnShard(dir, { ...spec, withoutShared }, options);
      const numTokens = 70;
      const hidden = Float32Array.from({ length: numTokens * hiddenSize }, (_, i) => Math.sin(i * 1.7));
      const expertIds = Int32Array.from(
        { length: numTokens * topK },
        (_, i) => (Math.floor(i / topK) + i) % numExperts,
      );
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
    },
  );
});
