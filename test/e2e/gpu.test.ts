import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkAddon } from "../../actors/cli/check-gpu.ts";
import type { GenerateOptions } from "../../actors/client/rally-client.ts";
import type { Topology } from "../../actors/supervisor/topology.ts";
import { openOrtSession } from "../../infra/ort-session.ts";
import { openAttentionStages, openFfnShard, shardSpecs } from "../../models/load.ts";
import { openCudaSession } from "../../models/open-session.ts";
import { Reference } from "../../models/reference.ts";
import { haveAddon } from "../support/addon.ts";
import { BUNDLED_MODEL, startDeployment } from "../support/deployment.ts";
import { Forward } from "../support/forward.ts";
import { haveGpu } from "../support/gpu.ts";
import { type RandomModel, SMALL_MODEL, writeRandomCheckpoint } from "../support/random-checkpoint.ts";
import { tokensOf } from "../support/requests.ts";
import { sessionContract } from "../infra/session.contract.ts";
import { prefill, stagesContract } from "../models/step3/stages.contract.ts";

/** Largest difference of a logit, of magnitudes around 10, between the same sums in another order. */
const LOGIT_TOLERANCE = 1e-3;
/** Of the root mean square of the logits; the kernels' twins on the CPU, which narrow less in between, gave 0.12; a wrong layout gives 1. */
const FP8_TOLERANCE = 0.2;
/** The heads that the FP8 kernels are made for, and little else. */
const HOPPER_MODEL: RandomModel = {
  ...SMALL_MODEL,
  hidden_size: 256,
  num_attention_heads: 64,
  head_dim: 256,
  share_q_dim: 256,
  intermediate_size: 512,
  moe_intermediate_size: 128,
  share_expert_dim: 128,
};
const PROMPTS = [
  "Once upon a time",
  "The king had three daughters, and the youngest of them",
  "It was a dark night, and the wind",
];

const [hasGpu, hasAddon] = [await haveGpu(), await haveAddon()];

describe.skipIf(!hasGpu)("on a GPU", () => {
  sessionContract("onnxruntime-node on cuda", (file, options) =>
    openOrtSession(file, { ...options, provider: "cuda" }),
  );

  describe.skipIf(!hasAddon)("with the addon", () => {
    sessionContract("addon on cuda", openCudaSession);

    describe("keys and values on the device", () => {
      let dir: string;
      beforeAll(() => {
        dir = mkdtempSync(path.join(tmpdir(), "rally-gpu-"));
        writeRandomCheckpoint(dir, SMALL_MODEL);
      });
      afterAll(() => rmSync(dir, { recursive: true, force: true }));

      async function open(numTokens = 200_000): Promise<Forward> {
        const warnings: string[] = [];
        const warn = (text: string) => warnings.push(text);
        const kvRoom = { numTokens, numSequences: 32 };
        const options = { numThreads: 1, provider: "cuda", cacheDir: path.join(dir, "cache"), kvRoom, warn } as const;
        const stages = await openAttentionStages(dir, options);
        const shards = shardSpecs(stages.config, 2).map((spec) => openFfnShard(dir, spec, options));
        expect(warnings).toEqual([]);
        return new Forward(stages, await Promise.all(shards));
      }

      stagesContract("on cuda", () => open());

      it("that do not fit are an error at once, and harm nobody", async () => {
        const small = await open();
        await expect(open(1e11)).rejects.toMatchObject({ code: "out-of-memory" });
        await small.pass(small.cache(1), [1, 2, 3], [0]);
        await small.release();
      });

      it("a kernel that fails loses the device for its process, and says so", () => {
        const program = fileURLToPath(new URL("../support/lose-device.mjs", import.meta.url));
        const output = execFileSync(process.execPath, [program], {
          encoding: "utf8",
          stdio: ["ignore", "pipe", "ignore"],
        });
        expect(JSON.parse(output)).toEqual({ before: "ok", during: "device-lost", after: "device-lost" });
      });
    });

    it("computes models of Step-3's dimensions in FP8, close to the reference", async () => {
      const dir = mkdtempSync(path.join(tmpdir(), "rally-gpu-"));
      try {
        writeRandomCheckpoint(dir, HOPPER_MODEL);
        const reference = new Reference(dir);
        const ids = Array.from({ length: 150 }, (_, i) => (i * i * 31 + 7) % HOPPER_MODEL.vocab_size);
        const expected = reference.forward(ids).logits;
        const kvRoom = { numTokens: 2000, numSequences: 8 };
        const options = { numThreads: 1, provider: "cuda", cacheDir: path.join(dir, "cache"), kvRoom } as const;
        const stages = await openAttentionStages(dir, options);
        const shards = shardSpecs(stages.config, 2).map((spec) => openFfnShard(dir, spec, options));
        const forward = new Forward(stages, await Promise.all(shards));
        for (const chunk of [150, 40, 1]) {
          const logits = await prefill(forward, ids, chunk);
          const error = rootMeanSquare(logits.map((value, i) => value - (expected[i] as number)));
          const share = error / rootMeanSquare(expected);
          process.stdout.write(`FP8, chunks of ${chunk}: ${(100 * share).toFixed(1)} % off, root mean square\n`);
          expect(share).toBeLessThan(FP8_TOLERANCE);
          expect(share).toBeGreaterThan(1e-3);
        }
        await forward.release();
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    });

    it("keeps tensors on the device, replays CUDA graphs, runs lanes beside each other", async () => {
      expect(await checkAddon("cuda", process.env, "missing")).toMatchObject({ state: "ok" });
    });
  });

  describe("the bundled model", () => {
    let cacheDir: string;
    beforeAll(() => {
      cacheDir = mkdtempSync(path.join(tmpdir(), "rally-gpu-"));
    });
    afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));

    async function logits(provider: "cpu" | "cuda", ids: readonly number[], chunk: number): Promise<Float32Array> {
      const options = { numThreads: 1, provider, cacheDir };
      const stages = await openAttentionStages(BUNDLED_MODEL, options);
      const shards = shardSpecs(stages.config, 2).map((spec) => openFfnShard(BUNDLED_MODEL, spec, options));
      const forward = new Forward(stages, await Promise.all(shards));
      const kv = forward.cache(1);
      kv.reserve(ids.length, 1);
      const { vocabSize } = stages.config;
      const all = new Float32Array(ids.length * vocabSize);
      for (let past = 0; past < ids.length; past += chunk) {
        const part = ids.slice(past, past + chunk);
        all.set(await forward.head(await forward.pass(kv, part, [past]), [...part.keys()]), past * vocabSize);
      }
      await forward.release();
      return all;
    }

    it.each([1, 50])("gives the CPU's logits, in chunks of %i", async (chunk) => {
      const ids = Array.from({ length: 100 }, (_, i) => (i * i * 31 + 7) % 4096);
      const [expected, found] = [await logits("cpu", ids, ids.length), await logits("cuda", ids, chunk)];
      const difference = found.reduce((most, value, i) => Math.max(most, Math.abs(value - (expected[i] as number))), 0);
      process.stdout.write(`largest difference of a logit: ${difference.toExponential(2)}\n`);
      expect(difference).toBeLessThan(LOGIT_TOLERANCE);
    });

    it(
      "gives the CPU's 200 tokens through NATS, alone, beside others and short of memory",
      { timeout: 120_000 },
      async () => {
        const requests = PROMPTS.map((prompt): GenerateOptions => ({
          prompt,
          maxTokens: 200,
          sampling: { temperature: 0, seed: 1 },
        }));
        const tokens = async (topology: Partial<Topology>, concurrency: number) => {
          const deployment = await startDeployment(topology);
          try {
            const from = performance.now();
            const found = await tokensOf(deployment.client, requests, concurrency);
            const perSecond = found.flat().length / ((performance.now() - from) / 1000);
            process.stdout.write(`${topology.provider}, ${concurrency} at once: ${perSecond.toFixed(1)} tokens/s\n`);
            expect(deployment.warnings).toEqual([]);
            return found;
          } finally {
            await deployment.stop();
          }
        };
        const expected = await tokens({ provider: "cpu" }, 3);
        expect(expected.map(({ length }) => length)).toEqual([200, 200, 200]);
        expect(await tokens({ provider: "cuda" }, 1)).toEqual(expected);
        expect(await tokens({ provider: "cuda" }, 3)).toEqual(expected);
        // Not enough pages for all of them: they are put out and come back.
        expect(await tokens({ provider: "cuda", limits: { maxKvTokens: 320 } }, 3)).toEqual(expected);
      },
    );
  });
});

function rootMeanSquare(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  return Math.sqrt(sum / values.length);
}
