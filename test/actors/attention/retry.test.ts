import { describe, expect, it } from "vitest";
import { isPassing, patienceMs, retryAfterMs } from "../../../actors/attention/retry.ts";
import { ERROR_CODES, type ErrorFields } from "../../../infra/errors.ts";

describe("retry", () => {
  it("takes only these refusals for passing", () => {
    expect(ERROR_CODES.filter(isPassing)).toEqual([
      "corrupted",
      "overloaded",
      "deadline-exceeded",
      "stale-epoch",
      "closed",
    ]);
  });

  it("waits as long as it is told, within reason", () => {
    const after = (fields: ErrorFields) => retryAfterMs({ fields });
    expect(after({})).toBe(50);
    expect(after({ retryAfterMs: 20 })).toBe(20);
    expect(after({ retryAfterMs: "20" })).toBe(20);
    expect(after({ retryAfterMs: -5 })).toBe(1);
    expect(after({ retryAfterMs: 1e12 })).toBe(5000);
    expect(after({ retryAfterMs: "soon" })).toBe(50);
    expect(after({ retryAfterMs: Number.POSITIVE_INFINITY })).toBe(50);
  });

  it("asks soon again at first, then ever more patiently", () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7, 8, 99].map((n) => patienceMs(100, n))).toEqual([
      100, 100, 100, 100, 200, 400, 800, 1600, 1600, 1600,
    ]);
  });
});
