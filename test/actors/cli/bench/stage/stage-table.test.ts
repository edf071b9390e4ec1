import { describe, expect, it } from "vitest";
import { expertRows } from "../../../../../actors/cli/bench/stage/ffn-parts.ts";
import { floorUs } from "../../../../../actors/cli/bench/stage/floor.ts";
import type { Measured } from "../../../../../actors/cli/bench/stage/measure-stage.ts";
import { rotated, STANDARD_ROTATION } from "../../../../../actors/cli/bench/stage/rotation.ts";
import { stageTable, torchTime } from "../../../../../actors/cli/bench/stage/stage-table.ts";
import type { Measurement } from "../../../../../models/planner/measurements.ts";

const rates = { copyBytesPerSecond: 3e12, fp8FlopsPerSecond: 1e15 };

const attention: Measured = {
  part: "attention",
  batch: 128,
  context: 4096,
  kv: "fp8",
  bytes: 270e6,
  flops: 34e9,
  results: [
    { by: "rally", method: "rally operators", us: 99 },
    { by: "onnxruntime", method: "GroupQueryAttention", us: 549 },
  ],
};
const torch: Measurement = {
  model: "step3",
  by: "pytorch",
  stage: "attention",
  part: "attention",
  batch: 128,
  context: 4096,
  kv: "fp8",
  method: "Triton",
  us: 116,
};

describe("a floor", () => {
  it("is the longer of moving the bytes and computing, as far as the rate is known", () => {
    expect(floorUs({ bytes: 270e6, flops: 34e9 }, rates)).toBeCloseTo(90);
    expect(floorUs({ bytes: 270e6, flops: 200e9 }, rates)).toBeCloseTo(200);
    expect(floorUs({ bytes: 270e6, flops: 200e9 }, { ...rates, fp8FlopsPerSecond: undefined })).toBeCloseTo(90);
  });
});

describe("the table of a stage", () => {
  it("sets floor, ONNX Runtime, PyTorch and Rally side by side", () => {
    const [head, line, , ...notes] = stageTable([attention], [torch], rates);
    expect(head).toMatch(/floor +ONNX RT +PyTorch +Rally +÷ floor$/);
    expect(line).toMatch(/^attention +128 +4096 +90\.0 +549\.0 +116\.0 +99\.0 +1\.10x$/);
    expect(notes.join("\n")).toContain("3.00 TB/s, measured by a copy here, or FLOPs ÷ 1000 TFLOP/s");
  });

  it("has a dash where somebody was not measured, and says why somebody could not", () => {
    const results = [{ by: "rally", method: "x", reason: "too wide\nat line 3" }] as const;
    const lines = stageTable([{ ...attention, results }], [], { ...rates, fp8FlopsPerSecond: undefined });
    expect(lines[1]).toMatch(/ 90\.0 +- +- +- *$/);
    expect(lines.at(-1)).toBe("rally did not do attention at batch 128: too wide");
  });

  it("takes PyTorch's fastest way at the very same batch, context, cache and routing", () => {
    const others = [
      { ...torch, us: 1, batch: 64 },
      { ...torch, us: 2, context: 8192 },
      { ...torch, us: 3, kv: "bf16" as const },
    ];
    expect(torchTime(attention, [...others, { ...torch, us: 130 }, torch])).toBe(116);
    expect(torchTime({ ...attention, part: "qUp" }, [torch])).toBeUndefined();
  });
});

describe("rotation", () => {
  const numUnits = (bytes: number) => {
    const seen: [set: number, unit: number][] = [];
    const graph = rotated({ rotation: STANDARD_ROTATION }, "x", bytes, (_, set, unit) => seen.push([set, unit]));
    expect(seen).toHaveLength(graph.units);
    return { units: graph.units, sets: new Set(seen.map(([set]) => set)).size };
  };

  it("goes round more bytes than the L2 cache has before a buffer is used again", () => {
    expect(numUnits(18.4e6)).toEqual({ sets: 18, units: 252 });
    expect(numUnits(440e6)).toEqual({ sets: 2, units: 28 });
  });

  it("keeps a graph within its number of nodes", () => {
    expect(numUnits(1000)).toEqual({ sets: 128, units: 256 });
  });
});

describe("rows of a GPU's experts", () => {
  it.each([128, 64, 30])("are as many in all with skewed routing, at batch %i", (batch) => {
    expect(expertRows(batch, "balanced")).toEqual([batch, batch, batch, batch]);
    const skewed = expertRows(batch, "skewed");
    expect(skewed.reduce((sum, rows) => sum + rows, 0)).toBe(4 * batch);
    expect(skewed[0]).toBe(2 * batch);
  });
});
