import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BenchGraph } from "../../../../../actors/cli/bench/stage/bench-graph.ts";
import {
  measurementsOf,
  measureStage,
  type StageOptions,
} from "../../../../../actors/cli/bench/stage/measure-stage.ts";
import { stageTable } from "../../../../../actors/cli/bench/stage/stage-table.ts";
import { withGraph } from "../../../../../actors/cli/bench/stage/time-graph.ts";
import type { ModelConfig } from "../../../../../models/config.ts";
import { fromBf16 } from "../../../../../models/kernels/check/numbers.ts";
import type { Place } from "../../../../../models/kernels/check/runner.ts";
import { STEP3_CONFIG } from "../../../../../models/planner/step3-config.ts";
import { haveAddon, runtime } from "../../../../support/addon.ts";
import { buildTwin, findCudaHeaders } from "../../../../kernels/twin/twin.ts";

/** As narrow as the kernels allow: they are built for 64 heads of 256. */
const SMALL: ModelConfig = {
  ...STEP3_CONFIG,
  hiddenSize: 256,
  shareQDim: 128,
  vocabSize: 300,
  numExperts: 8,
  expertDim: 128,
  denseDim: 512,
};
const cudaHeaders = findCudaHeaders();

describe.skipIf(!(await haveAddon()) || cudaHeaders === undefined)("a stage's parts, over the kernels' twins", () => {
  let place: Place;
  let shared: StageOptions;

  beforeAll(() => {
    const folder = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    place = {
      library: buildTwin(folder, runtime?.headerFolder ?? "", cudaHeaders ?? ""),
      provider: "cpu",
      folder,
    };
    shared = {
      place,
      config: SMALL,
      stage: "attention",
      batches: [4],
      contexts: [70],
      kv: "fp8",
      routing: "balanced",
      progress: () => undefined,
      stopped: () => undefined,
      rotation: { bytes: 1, graphUs: 1, mostUnits: 4 },
      time: (where, graph) => runOnce(where, graph),
    };
  }, 120_000);
  afterAll(() => rmSync(place.folder, { recursive: true }));

  /** Every number that comes out is finite; the time is made up. */
  function runOnce(where: Place, bench: BenchGraph): number {
    return withGraph(where, bench, false, ({ outputs, binding }) => {
      binding.run();
      for (const [name, tensor] of outputs) {
        const size = tensor.dims.reduce((product, dim) => product * dim, 1);
        if (tensor.type === "f32")
          expect(tensor.download(new Float32Array(size)).every(Number.isFinite), name).toBe(true);
        if (tensor.type !== "bf16") continue;
        expect(fromBf16(tensor.download(new Uint16Array(size))).every(Number.isFinite), name).toBe(true);
      }
      return 10 * bench.units;
    });
  }

  it.each(["fp8", "bf16"] as const)(
    "of attention run with a cache in %s, each part and the whole",
    (kv) => {
      const measured = measureStage({ ...shared, kv });
      const done = measured.filter(({ results }) =>
        results.some(({ by, ...result }) => by === "rally" && "us" in result),
      );
      const parts = "inputNorm qDownKv interNorm qUp oProj postNorm router head ropeAppend attention stage".split(" ");
      expect(done.map(({ part }) => part)).toEqual(parts);
      const rows = measurementsOf("attention", measured).filter(({ by }) => by === "rally");
      expect(rows.find(({ part }) => part === "stage")).toMatchObject({ context: 70, kv, batch: 4, us: 40 });
      expect(rows.find(({ part }) => part === "qUp")).not.toHaveProperty("context");
    },
    120_000,
  );

  it("of the FFN run with even and uneven routing, and dense layers", () => {
    for (const routing of ["balanced", "skewed"] as const) {
      const measured = measureStage({ ...shared, stage: "ffn", routing });
      expect(measured.map(({ part, results: [own] }) => [part, own && "us" in own])).toEqual([
        ["experts", true],
        ["dense", true],
      ]);
      expect(measured[0]).toMatchObject({ routing, flops: 6 * 16 * 256 * 128 });
    }
  }, 120_000);

  it("that one maker cannot do are listed with the reason", () => {
    const [experts] = measureStage({ ...shared, stage: "ffn" });
    const lines = stageTable(experts === undefined ? [] : [experts], [], {
      copyBytesPerSecond: 3e12,
      fp8FlopsPerSecond: undefined,
    });
    expect(lines.join("\n")).toMatch(/^onnxruntime did not do experts at batch 4: /m);
  }, 120_000);
});
