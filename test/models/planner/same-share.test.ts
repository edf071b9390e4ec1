import { describe, expect, it } from "vitest";
import { attentionFloorUs, expertsFloorUs } from "../../../models/planner/floors.ts";
import { DEEPSEEK_V3, STEP3 } from "../../../models/planner/planned-model.ts";
import { atSameShare } from "../../../models/planner/same-share.ts";
import type { StageTimes } from "../../../models/planner/stage-times.ts";

const ceilings = { copyBytesPerSecond: 3e12, fp8FlopsPerSecond: 1.5e15, bf16FlopsPerSecond: 0.75e15 };

describe("floors of a stage", () => {
  it("of Step-3's attention at 128 x 4K in FP8: 169 MB of weights and 273 MB of cache, both bound by memory", () => {
    const weights = 169_345_024 / 3e6;
    const cache = (128 * 4096 * 520) / 3e6;
    expect(attentionFloorUs(STEP3, "fp8", 128, 4096, ceilings)).toBeCloseTo(weights + cache, 6);
  });

  it("of DeepSeek-V3's attention: 128 heads against a latent of 576 compute about as long as they read", () => {
    const linears = DEEPSEEK_V3.attentionBytesPerLayer / 3e6;
    const tokens = 128 * 4096;
    expect(DEEPSEEK_V3.attentionFlopsPerKvToken).toBe(278_528);
    expect((tokens * 278_528) / 1.5e9).toBeCloseTo(97.35, 1);
    expect(attentionFloorUs(DEEPSEEK_V3, "fp8", 128, 4096, ceilings)).toBeCloseTo(linears + (tokens * 580) / 3e6, 6);
    expect(attentionFloorUs(DEEPSEEK_V3, "bf16", 128, 4096, ceilings)).toBeCloseTo(linears + (tokens * 1152) / 3e6, 6);
    const slow = { ...ceilings, bf16FlopsPerSecond: 0.5e15 };
    expect(attentionFloorUs(DEEPSEEK_V3, "bf16", 128, 4096, slow)).toBeCloseTo(linears + (tokens * 278_528) / 0.5e9, 6);
  });

  it("of experts: reading them for few rows, computing for many", () => {
    expect(expertsFloorUs(STEP3, 4, 128, ceilings)).toBeCloseTo((4 * 110_100_480) / 3e6, 6);
    expect(expertsFloorUs(STEP3, 4, 512, ceilings)).toBeCloseTo((4 * 110_100_480 * 2 * 512) / 1.5e9, 6);
  });
});

describe("another model by kernels as good", () => {
  it("takes its own floors at the same share, batch by batch, and Step-3's dense layers and head", () => {
    const floor = attentionFloorUs(STEP3, "fp8", 128, 4096, ceilings);
    const times: StageTimes = {
      attention: [{ rows: 128, us: 2 * floor }],
      experts: [{ rows: 128, us: 1.5 * expertsFloorUs(STEP3, 4, 128, ceilings) }],
      weightsPerPoint: 4,
      dense: [{ rows: 128, us: 170 }],
      head: [{ rows: 128, us: 500 }],
    };
    const found = atSameShare(STEP3, times, DEEPSEEK_V3, 17, { kv: "fp8", context: 4096 }, ceilings);
    expect(found.attention).toEqual([
      { rows: 128, us: expect.closeTo(2 * attentionFloorUs(DEEPSEEK_V3, "fp8", 128, 4096, ceilings), 6) },
    ]);
    expect(found.experts[0]?.us).toBeCloseTo(1.5 * expertsFloorUs(DEEPSEEK_V3, 17, 128, ceilings), 6);
    expect(found.experts.at(-1)?.us).toBeCloseTo(1.5 * expertsFloorUs(DEEPSEEK_V3, 17, 512, ceilings), 6);
    expect(found).toMatchObject({ weightsPerPoint: 17, dense: times.dense, head: times.head });
  });
});
