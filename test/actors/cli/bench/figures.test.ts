import { describe, expect, it } from "vitest";
import { figuresOf, figuresOfRounds, median } from "../../../../actors/cli/bench/figures.ts";

const every = (ms: number, from: number, count: number) => Array.from({ length: count }, (_, i) => from + i * ms);

describe("bench figures", () => {
  it("count tokens only while every request decodes", () => {
    // Alone until 100, both from 100 to 400, alone again until 1000.
    const first = { sentAt: 0, arrivals: every(100, 0, 11) };
    const second = { sentAt: 0, arrivals: every(50, 100, 7) };
    const { tokensPerSecond } = figuresOf([first, second]);
    // In (100, 400]: 3 of the first, 6 of the second.
    expect(tokensPerSecond).toBeCloseTo((9 * 1000) / 300);
  });

  it("take time per token after the first, and time to the first", () => {
    const { tpotMs, ttftMs } = figuresOf([
      { sentAt: 0, arrivals: every(10, 40, 11) },
      { sentAt: 0, arrivals: every(20, 80, 11) },
    ]);
    expect(tpotMs).toEqual({ p50: 10, p99: 20 });
    expect(ttftMs).toEqual({ p50: 40, p99: 80 });
  });

  it("are medians over rounds, each with a clock of its own", () => {
    const round = (ms: number, from: number) => [{ sentAt: from, arrivals: every(ms, from + 5, 101) }];
    expect(figuresOfRounds([round(10, 0), round(20, 5_000), round(10, 90_000)]).tokensPerSecond).toBeCloseTo(100);
    expect(median([1, 2, 3, 10])).toBe(2.5);
  });

  it("are zero of nothing", () => {
    expect(figuresOf([]).tokensPerSecond).toBe(0);
    expect(figuresOf([{ sentAt: 0, arrivals: [5] }]).tpotMs.p50).toBe(0);
  });
});
