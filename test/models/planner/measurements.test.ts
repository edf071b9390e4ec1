import { describe, expect, it } from "vitest";
import { withMlaRate } from "../../../models/planner/mla-rate.ts";
import { colocatedTimes, type Measurement, parseReport, stageTimes } from "../../../models/planner/measurements.ts";

const row = (rest: Partial<Measurement>): Measurement => ({
  model: "step3",
  by: "rally",
  stage: "attention",
  part: "stage",
  batch: 128,
  method: "x",
  us: 200,
  ...rest,
});
const selection = { model: "step3", by: "rally", kv: "fp8", context: 4096 } as const;
const at = { kv: "fp8", context: 4096 } as const;

describe("a benchmark's JSON", () => {
  it("is read with its ceilings; rows that name nobody are PyTorch's", () => {
    const { by: _by, ...bare } = row({});
    const ceilings = {
      copyBytesPerSecond: 3e12,
      fp8FlopsPerSecond: 1e15,
      bf16FlopsPerSecond: 7e14,
    };
    const report = parseReport(JSON.stringify({ device: "H100", ceilings, measurements: [bare, row({})] }), "a.json");
    expect(report).toMatchObject({ device: "H100", ceilings, measurements: [{ by: "pytorch" }, { by: "rally" }] });
  });

  it.each([
    ["{", /a.json: not JSON/],
    ["[]", /no list of measurements/],
    [JSON.stringify({ measurements: [row({}), { ...row({}), us: -1 }] }), /measurement 1 misses/],
    [JSON.stringify({ measurements: [{ ...row({}), model: "gpt" }] }), /measurement 0 misses/],
  ])("is refused where it is something else: %s", (text, reason) => {
    expect(() => parseReport(text, "a.json")).toThrow(reason);
  });

  it("has no ceilings where one of them is missing", () => {
    expect(parseReport('{"ceilings":{"copyBytesPerSecond":1},"measurements":[]}', "a").ceilings).toBeUndefined();
  });
});

describe("stage times", () => {
  it("take the fastest method of each batch, of one maker, KV and context alone", () => {
    const rows = [
      row({ ...at, us: 300 }),
      row({ ...at, us: 250 }),
      row({ ...at, us: 1, by: "pytorch" }),
      row({ kv: "bf16", context: 4096, us: 2 }),
      row({ kv: "fp8", context: 8192, us: 3 }),
      row({ ...at, batch: 64, us: 150 }),
    ];
    expect(stageTimes(rows, selection).attention).toEqual([
      { rows: 64, us: 150 },
      { rows: 128, us: 250 },
    ]);
  });

  it("add up an attention stage's parts where it never ran whole, at batches that have all of them", () => {
    const parts = "inputNorm qDownKv interNorm qUp quantiseOut oProj postNorm router".split(" ");
    const rows = [
      ...parts.map((part) => row({ part, us: 10 })),
      row({ part: "ropeAppend", kv: "fp8", us: 5 }),
      row({ part: "attention", ...at, us: 100 }),
      row({ part: "attention", ...at, us: 90 }),
      row({ part: "inputNorm", batch: 64, us: 10 }),
    ];
    expect(stageTimes(rows, selection).attention).toEqual([{ rows: 128, us: 8 * 10 + 5 + 90 }]);
    expect(stageTimes(rows.slice(1), selection).attention).toEqual([]);
  });

  it("know the experts' rows per weight: Step-3's four weights have batch rows each, DeepSeek-V3's seventeen 9/17 of it", () => {
    const ffn = { stage: "ffn", part: "experts" } as const;
    const rows = [
      row({ ...ffn, routing: "balanced", us: 180 }),
      row({ ...ffn, routing: "skewed", us: 10 }),
      row({ ...ffn, model: "dsv3", share: "2a2f", us: 300 }),
      row({ ...ffn, model: "dsv3", share: "ep128", us: 120 }),
      row({ stage: "ffn", part: "dense", us: 170 }),
      row({ part: "head", us: 500 }),
    ];
    const one = { dense: [{ rows: 128, us: 170 }], head: [{ rows: 128, us: 500 }] };
    expect(stageTimes(rows, selection)).toMatchObject({
      ...one,
      weightsPerPoint: 4,
      experts: [{ rows: 128, us: 180 }],
    });
    const dsv3 = { ...selection, model: "dsv3" } as const;
    expect(stageTimes(rows, dsv3)).toMatchObject({
      ...one,
      weightsPerPoint: 17,
      experts: [{ rows: (128 * 9) / 17, us: 300 }],
    });
    expect(colocatedTimes(rows, dsv3).experts).toEqual([{ rows: 128, us: 120 }]);
  });
});

describe("DeepSeek-V3 with another attention", () => {
  it("has the same parts but for attention: 128 x 4096 tokens x 278,528 operations at 660 TFLOP/s are 221 µs", () => {
    const attention = row({ model: "dsv3", part: "attention", ...at, us: 478 });
    const kept = [row({ model: "dsv3", part: "qUp" }), row({ part: "head" }), row({ part: "dense" })];
    const left = [row({ model: "dsv3", part: "stage", ...at }), row({ part: "attention", ...at })];
    const found = withMlaRate([attention, ...kept, ...left], 660);
    expect(found[0]).toMatchObject({ by: "MLA 660", us: expect.closeTo(221.3, 1) });
    expect(found.slice(1)).toEqual(kept.map((each) => ({ ...each, by: "MLA 660" })));
  });
});
