import { describe, expect, it } from "vitest";
import { activationBatch, bytesPerRow, type DispatchOptions, splitRows } from "../../../actors/attention/dispatch.ts";
import { decodeActivationBatch } from "../../../actors/protocol/decode.ts";
import { MAX_BATCH_ROWS } from "../../../actors/protocol/limits.ts";
import { encode } from "../../../infra/codec.ts";
import { fromWireF32, fromWireI32 } from "../../../infra/tensor.ts";
import type { Pass } from "../../../models/stages.ts";

const options: DispatchOptions = {
  deployment: "d".repeat(64),
  attentionId: "a".repeat(64),
  hiddenSize: 96,
  topK: 3,
  wireDtype: "f32",
};
const meta = { part: 65_535, attempt: 2 ** 53 - 1, epoch: 2 ** 53 - 1, deadline: 2 ** 53 - 1 };

function pass(numTokens: number): Pass {
  const { hiddenSize, topK } = options;
  const floats = (length: number) => Float32Array.from({ length }, (_, i) => i / 7);
  return {
    numTokens,
    hidden: floats(numTokens * hiddenSize),
    residual: floats(numTokens * hiddenSize),
    ffnInput: floats(numTokens * hiddenSize),
    expertIds: Int32Array.from({ length: numTokens * topK }, (_, i) => i),
    expertWeights: floats(numTokens * topK),
  };
}

describe("splitRows", () => {
  it("covers all rows once, in order, as evenly as possible", () => {
    for (const numTokens of [1, 2, 7, 100, 1001]) {
      const parts = splitRows(numTokens, 100, 1024 + 100 * 9);
      let next = 0;
      for (const { from, count } of parts) {
        expect(from).toBe(next);
        next += count;
      }
      expect(next).toBe(numTokens);
      expect(parts).toHaveLength(Math.ceil(numTokens / 9));
      const counts = parts.map(({ count }) => count);
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
    }
  });

  it("splits only beyond an exact fit", () => {
    expect(splitRows(10, 100, 1024 + 1000)).toEqual([{ from: 0, count: 10 }]);
    expect(splitRows(10, 100, 1024 + 999)).toEqual([
      { from: 0, count: 5 },
      { from: 5, count: 5 },
    ]);
    expect(splitRows(11, 100, 1024 + 1000)).toHaveLength(2);
  });

  it("sends no more rows at once than an expert takes", () => {
    expect(splitRows(MAX_BATCH_ROWS, 1, 1 << 30)).toHaveLength(1);
    expect(splitRows(MAX_BATCH_ROWS + 1, 1, 1 << 30)).toHaveLength(2);
  });

  it("refuses a row that fits no message", () => {
    expect(splitRows(1, 100, 1124)).toHaveLength(1);
    expect(() => splitRows(1, 100, 1123)).toThrow(
      expect.objectContaining({
        code: "payload-too-large",
        fields: { field: "max_payload", found: 1123, needed: 1124 },
      }),
    );
  });
});

describe("activationBatch", () => {
  for (const wireDtype of ["f32", "f16", "int8-row"] as const) {
    it(`fits max_payload as splitRows has reckoned, in ${wireDtype}`, () => {
      const chosen = { ...options, wireDtype };
      const maxPayload = 1024 + 10 * bytesPerRow(chosen);
      const whole = pass(25);
      for (const layer of [0, 1]) {
        const trip = { passId: 2 ** 53 - 1, microBatch: 65_535, layer, pass: whole };
        for (const rows of splitRows(25, bytesPerRow(chosen), maxPayload)) {
          const { length } = encode(activationBatch(chosen, trip, rows, meta));
          expect(length).toBeLessThanOrEqual(maxPayload);
        }
      }
    });
  }

  it("carries the rows of its range, hidden, ids and weights alike", () => {
    const whole = pass(9);
    const trip = { passId: 5, microBatch: 1, layer: 0, pass: whole };
    const batch = decodeActivationBatch(encode(activationBatch(options, trip, { from: 4, count: 3 }, meta)));
    expect(batch).toMatchObject({ passId: 5, microBatch: 1, layer: 0, ...meta });
    expect(fromWireF32(batch.hidden, [3, 96])).toEqual(whole.ffnInput.slice(4 * 96, 7 * 96));
    expect(fromWireI32(batch.expertIds, [3, 3])).toEqual(whole.expertIds.slice(12, 21));
    expect(fromWireF32(batch.expertWeights, [3, 3])).toEqual(whole.expertWeights.slice(12, 21));
  });
});
