import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../infra/own-file.ts";
import { openAttentionStages, openFfnShard, loadConfig, shardSpecs } from "../../models/load.ts";
import { Reference } from "../../models/reference.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { Forward } from "../support/forward.ts";

interface Route {
  readonly experts: readonly number[];
  readonly weights: readonly number[];
}

/** Written by models/train/reference.py: PyTorch in float64 from the stored weights. */
interface Fixture {
  readonly prompts: readonly {
    readonly name: string;
    readonly text: string;
    readonly ids: readonly number[];
    readonly positions: readonly number[];
    /** [position][MoE layer] */
    readonly routes: readonly (readonly Route[])[];
    readonly greedyIds: readonly number[];
  }[];
  readonly tokenizer: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly moeLayers: readonly number[];
}

const modelDir = path.join(packageRoot, "models/step3-tiny");
const fixtureDir = path.join(packageRoot, "test/fixtures/step3-tiny");
const fixture = JSON.parse(readFileSync(path.join(fixtureDir, "reference.json"), "utf8")) as Fixture;
const TOLERANCE = 1e-4;

describe("the bundled model", () => {
  let forward: Forward;
  let expectedLogits: Float32Array; // [numPrompts, 8, vocabSize]

  beforeAll(async () => {
    const config = await loadConfig(modelDir);
    const options = { numThreads: 1 };
    const shards = await Promise.all(shardSpecs(config, 2).map((spec) => openFfnShard(modelDir, spec, options)));
    forward = new Forward(await openAttentionStages(modelDir, options), shards);
    const bytes = readFileSync(path.join(fixtureDir, "reference-logits.f32"));
    expectedLogits = new Float32Array(new Uint8Array(bytes).buffer);
  });
  afterAll(() => forward.release());

  it("stays under 24 MiB", () => {
    expect(statSync(path.join(modelDir, "model.safetensors")).size).toBeLessThan(24 * 2 ** 20);
  });

  it("tokenizes as Hugging Face does", async () => {
    const tokenizer = await loadTokenizer(modelDir);
    for (const { text, ids } of fixture.tokenizer) expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
    for (const { text, ids } of fixture.prompts) expect([0, ...tokenizer.encode(text)]).toEqual(ids);
  });

  it.each(fixture.prompts.map((prompt, index) => ({ ...prompt, index })))(
    "gives PyTorch's logits and router choices: $name",
    async ({ ids, positions, routes, index }) => {
      const { vocabSize, topK } = forward.stages.config;
      const found: Route[][] = positions.map(() => []);
      const pass = await forward.pass(forward.cache(1), ids, [0], {
        observe: ({ expertIds, expertWeights }, layer) => {
          if (!fixture.moeLayers.includes(layer)) return;
          for (const [i, position] of positions.entries()) {
            const [from, to] = [position * topK, (position + 1) * topK];
            found[i]?.push({
              experts: [...expertIds.subarray(from, to)],
              weights: [...expertWeights.subarray(from, to)],
            });
          }
        },
      });
      const logits = await forward.head(pass, positions);
      const first = index * positions.length * vocabSize;
      expect(relativeError(logits, expectedLogits.subarray(first, first + logits.length))).toBeLessThan(TOLERANCE);
      for (const [i, layers] of routes.entries()) {
        for (const [layer, { experts, weights }] of layers.entries()) {
          const route = found[i]?.[layer];
          expect(route?.experts).toEqual(experts);
          expect(relativeError(route?.weights ?? [], weights)).toBeLessThan(TOLERANCE);
        }
      }
    },
  );

  it("continues greedily as PyTorch does, 200 tokens, all prompts in one batch", { timeout: 60_000 }, async () => {
    const { vocabSize } = forward.stages.config;
    const kv = forward.cache(fixture.prompts.length);
    const sequences = fixture.prompts.map(({ ids }) => [...ids]);
    const next = async (pass: Awaited<ReturnType<Forward["pass"]>>, rows: readonly number[]) => {
      const logits = await forward.head(pass, rows);
      return rows.map((_, i) => argmax(logits.subarray(i * vocabSize, (i + 1) * vocabSize)));
    };
    for (const [slot, ids] of sequences.entries()) {
      const prefilled = await forward.pass(kv, ids, [0], { firstSlot: slot });
      ids.push(...(await next(prefilled, [ids.length - 1])));
    }
    for (let step = 1; step < 200; step++) {
      const pasts = sequences.map((ids) => ids.length - 1);
      const pass = await forward.pass(
        kv,
        sequences.map((ids) => ids.at(-1) ?? 0),
        pasts,
      );
      const ids = await next(
        pass,
        pasts.map((_, i) => i),
      );
      for (const [i, id] of ids.entries()) sequences[i]?.push(id);
    }
    expect(sequences.map((ids, i) => ids.slice(fixture.prompts[i]?.ids.length))).toEqual(
      fixture.prompts.map(({ greedyIds }) => greedyIds),
    );
  });

  it("is what the slow reference in this package computes, too", { timeout: 60_000 }, () => {
    const { ids, positions } = fixture.prompts[0] as Fixture["prompts"][number];
    const { logits } = new Reference(modelDir).forward(ids);
    const { vocabSize } = forward.stages.config;
    const last = logits.subarray((positions[0] ?? 0) * vocabSize);
    expect(relativeError(last, expectedLogits.subarray(0, last.length))).toBeLessThan(1e-6);
  });
});

/** ‖found − expected‖ / ‖expected‖; NaN anywhere gives NaN, which is less than nothing. */
function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(found.length).toBe(expected.length);
  let [difference, size] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    difference += ((found[i] as number) - (expected[i] as number)) ** 2;
    size += (expected[i] as number) ** 2;
  }
  return Math.sqrt(difference / size);
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
