import { describe, expect, it } from "vitest";
import { type Outcome, pointOf } from "../../../../actors/cli/bench/goodput-figures.ts";

const load = { factor: 2, offeredPerSecond: 10 };
const window = { fromMs: 1_000, toMs: 3_000 };
const completed = (sentAt: number, endedAt: number, outputTokens = 10): Outcome => ({
  sentAt,
  firstTokenAt: sentAt + 40,
  endedAt,
  how: "completed",
  outputTokens,
});

describe("a point of the goodput curve", () => {
  it("counts the tokens of what was completed within the window, however early it was sent", () => {
    const outcomes = [
      completed(0, 1_000),
      completed(500, 1_001, 30),
      completed(1_500, 3_000, 20),
      completed(2_900, 3_001),
    ];
    expect(pointOf(load, outcomes, window)).toMatchObject({ ...load, completed: 2, goodput: 25, sent: 2 });
  });

  it("tells apart what was refused, late and failed, none of which is goodput", () => {
    const nothing = { firstTokenAt: undefined, outputTokens: 0 };
    const outcomes: Outcome[] = [
      { ...nothing, sentAt: 1_500, endedAt: 1_512, how: "refused" },
      { ...nothing, sentAt: 1_500, endedAt: 1_530, how: "refused" },
      { sentAt: 500, firstTokenAt: 900, endedAt: 2_900, how: "late", outputTokens: 50 },
      { ...nothing, sentAt: 1_700, endedAt: 1_800, how: "failed" },
    ];
    const point = pointOf(load, outcomes, window);
    expect(point).toMatchObject({ completed: 0, refused: 2, late: 1, failed: 1, goodput: 0 });
    expect(point.refusalMs).toEqual({ p50: 12, p99: 30 });
    expect(point.ttftMs).toEqual({ p50: 0, p99: 0 });
  });
});
