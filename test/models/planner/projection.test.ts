import { describe, expect, it } from "vitest";
import { attentionWeightBytes, ffnWeightBytes, H100_80GB, kvBytes } from "../../../models/planner/memory.ts";
import { DEEPSEEK_V3, STEP3 } from "../../../models/planner/planned-model.ts";
import {
  bestBatch,
  bestDeployment,
  type Load,
  project,
  projectColocated,
  tokensPerSecondPerGpu,
} from "../../../models/planner/projection.ts";
import type { StageTimes } from "../../../models/planner/stage-times.ts";

const load: Load = { kv: "fp8", contextLength: 4096, microBatches: 3 };
const flat = (us: number) => [
  { rows: 1, us },
  { rows: 4096, us },
];
const times = (us: Partial<Record<"attention" | "experts" | "dense" | "head", number>>): StageTimes => ({
  attention: flat(us.attention ?? 272),
  experts: flat(us.experts ?? 272),
  weightsPerPoint: 4,
  dense: flat(us.dense ?? 272),
  head: flat(us.head ?? 0),
});

describe("the paper's own case", () => {
  it("has 6144 sequences on 32 GPUs, and 272 µs a stage are 49.8 ms a token", () => {
    const found = project(STEP3, times({}), { attentionServers: 2, ffnServers: 2 }, load, 128);
    expect(found).toMatchObject({ gpus: 32, sequences: 6144, isFfnMeasured: true, fits: true });
    expect(found.tpotMs).toBeCloseTo(3 * 61 * 0.272, 9); // 49.776
    expect(found.tokensPerSecondPerGpu).toBeCloseTo(6144 / 32 / 0.049776, 6); // 3857
  });

  it("does 4,039 tokens/s per GPU when a token takes 47.5 ms", () => {
    expect(Math.round(tokensPerSecondPerGpu(6144, 47.536, 32))).toBe(4039);
    const found = project(
      STEP3,
      times({ attention: 259.6, experts: 250, dense: 250 }),
      { attentionServers: 2, ffnServers: 2 },
      load,
      128,
    );
    expect(found.tpotMs).toBeCloseTo(47.5, 1);
    expect(Math.round(found.tokensPerSecondPerGpu / 10)).toBe(404);
  });

  it("leaves a third of the layer for transfers when both stages take as long: StepMesh's 273 µs at 161 Gb/s", () => {
    const found = project(STEP3, times({}), { attentionServers: 2, ffnServers: 2 }, load, 128);
    expect(found.hiddenTransferUs).toBeCloseTo(272);
    expect(found.networkGbps * (272 / 273)).toBeCloseTo(161.3, 0);
  });
});

describe("a layer", () => {
  it("takes the longer stage once per micro-batch, MoE and dense layers each their own, and the head once per token", () => {
    const { tpotMs } = project(
      STEP3,
      times({ attention: 100, experts: 200, dense: 50, head: 400 }),
      { attentionServers: 2, ffnServers: 2 },
      load,
      64,
    );
    expect(tpotMs).toBeCloseTo((56 * 3 * 200 + 5 * 3 * 100 + 3 * 400) / 1000, 9);
  });

  it("takes a micro-batch's own way round where there are too few to fill it", () => {
    const alone = project(
      STEP3,
      times({ attention: 100, experts: 200 }),
      { attentionServers: 2, ffnServers: 2 },
      { ...load, microBatches: 1 },
      64,
    );
    expect(alone.tpotMs).toBeCloseTo((56 * 300 + 5 * 372) / 1000, 9);
    expect(alone.hiddenTransferUs).toBe(0);
  });

  it("scales an FFN side of other size by its weights, at their own rows", () => {
    const linear: StageTimes = {
      ...times({}),
      experts: [
        { rows: 512 / 7, us: 290 },
        { rows: 1000, us: 4000 },
      ],
    };
    // 1A1F: 8 GPUs with 6 routed experts and the shared one; 1024 tokens are 4096 rows, 512 a GPU, 512/7 a weight.
    const found = project(STEP3, linear, { attentionServers: 1, ffnServers: 1 }, load, 128);
    expect(found.ffnUs).toBeCloseTo((290 * 7) / 4, 6);
    expect(found.isFfnMeasured).toBe(false);
  });
});

describe("memory", () => {
  it("counts Step-3's weights: 169 MB of attention a layer, 110 MB an expert, 316 billion parameters in all", () => {
    expect(STEP3.attentionBytesPerLayer).toBe(18_350_080 + 33_554_432 + 117_440_512);
    expect(STEP3.expertBytes).toBe(110_100_480);
    const all = attentionWeightBytes(STEP3) - STEP3.edgeBytes / 3 + ffnWeightBytes(STEP3, 49);
    expect(all / 1e9).toBeCloseTo(316.3, 0);
  });

  it("rounds a context up to whole KV pages", () => {
    expect(kvBytes(STEP3, "bf16", 1, 65)).toBe(128 * 1024 * 61);
    expect(kvBytes(STEP3, "fp8", 2, 64)).toBe(2 * 64 * 520 * 61);
    expect(kvBytes(DEEPSEEK_V3, "fp8", 1, 64)).toBe(64 * 580 * 61);
  });

  it("refuses a batch whose KV does not fit, so the best batch is smaller", () => {
    const deployment = { attentionServers: 2, ffnServers: 2 };
    const quick = times({ attention: 200, experts: 200, dense: 200 });
    expect(project(STEP3, quick, deployment, load, 192).fits).toBe(false);
    const best = bestBatch(STEP3, quick, deployment, load, 50);
    const [free, perSequence] = [80e9 - 4e9 - attentionWeightBytes(STEP3), 3 * kvBytes(STEP3, "fp8", 1, 4096)];
    expect(best?.batch).toBe(Math.floor(free / perSequence / 4) * 4);
    expect(project(STEP3, quick, deployment, load, (best?.batch ?? 0) + 4).fits).toBe(false);
  });

  it("and a network that is too slow for the transfers allow no batch", () => {
    const at = (networkGbps: number) =>
      bestBatch(STEP3, times({}), { attentionServers: 2, ffnServers: 2 }, load, 50, { ...H100_80GB, networkGbps });
    expect(at(100)?.batch).toBe(76); // 3 x 2 x 76 x 7168 bytes in 272 µs are 96 Gb/s
    expect(at(1)).toBeUndefined();
  });

  it("has no deployment where the experts of a GPU do not fit", () => {
    const small = { ...H100_80GB, gpuBytes: 40e9 };
    expect(bestBatch(STEP3, times({}), { attentionServers: 1, ffnServers: 1 }, load, 50, small)).toBeUndefined();
  });
});

describe("the best deployment", () => {
  it("stays under the time per token, and prefers the ratio in which both sides take as long", () => {
    const linear = (slope: number) => Array.from({ length: 1024 }, (_, i) => ({ rows: i + 1, us: slope * (i + 1) }));
    // Attention needs 2 µs a sequence, the experts of a 2F side 1 µs a row: two attention servers keep one FFN server busy.
    const found = bestDeployment(
      STEP3,
      { attention: linear(2), experts: linear(1), weightsPerPoint: 4, dense: linear(0.5), head: flat(0) },
      { ...load, contextLength: 64 },
      50,
      4,
    );
    expect(found?.tpotMs).toBeLessThanOrEqual(50);
    expect((found?.attentionServers ?? 0) / (found?.ffnServers ?? 1)).toBeCloseTo(2);
  });

  it("is none where no batch is quick enough", () => {
    expect(bestDeployment(STEP3, times({ attention: 300 }), load, 50, 3)).toBeUndefined();
  });
});

describe("attention and experts on every GPU", () => {
  it("takes both stages of every micro-batch one after the other", () => {
    const measured = times({ attention: 200, experts: 100, dense: 150, head: 500 });
    const found = projectColocated(DEEPSEEK_V3, measured, { ...load, microBatches: 2 }, 64, 3);
    expect(found.tpotMs).toBeCloseTo((2 * (61 * 200 + 58 * 100 + 3 * 150 + 500)) / 1000, 9);
    expect(found.tokensPerSecondPerGpu).toBeCloseTo(128_000 / found.tpotMs, 9);
  });
});
