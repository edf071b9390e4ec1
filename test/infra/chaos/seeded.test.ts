import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../infra/chaos/seeded.ts";

const draws = (seed: number, name: string) => {
  const random = new SeededRandom(seed, name);
  return Array.from({ length: 2_000 }, () => random.next());
};

describe("SeededRandom", () => {
  it("is decided by seed and name", () => {
    expect(draws(7, "a")).toEqual(draws(7, "a"));
    expect(draws(7, "a")).not.toEqual(draws(8, "a"));
    expect(draws(7, "a")).not.toEqual(draws(7, "b"));
  });

  it("spreads evenly over [0, 1)", () => {
    const values = draws(1, "spread");
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...values)).toBeLessThan(1);
    for (let tenth = 0; tenth < 10; tenth++) {
      const count = values.filter((value) => Math.floor(value * 10) === tenth).length;
      expect(count).toBeGreaterThan(140);
      expect(count).toBeLessThan(260);
    }
  });

  it("draws both ends, by weight, and with the mean that was asked for", () => {
    const random = new SeededRandom(3, "shapes");
    const integers = new Set(Array.from({ length: 200 }, () => random.integer(2, 4)));
    expect(integers).toEqual(new Set([2, 3, 4]));
    const items = [
      { name: "often", weight: 3 },
      { name: "seldom", weight: 1 },
    ];
    const often = Array.from({ length: 2_000 }, () => random.weighted(items)).filter(({ name }) => name === "often");
    expect(often.length / 2_000).toBeCloseTo(0.75, 1);
    const gaps = Array.from({ length: 5_000 }, () => random.exponential(100));
    expect(gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length / 100).toBeCloseTo(1, 1);
  });
});
