import { describe, expect, it } from "vitest";
import { AnswerTimes } from "../../../actors/attention/answer-times.ts";

function after(samples: readonly number[], numRows = 4): AnswerTimes {
  const times = new AnswerTimes(2);
  for (const ms of samples) times.took(1, numRows, ms);
  return times;
}

const repeat = (count: number, ms: number) => Array.from({ length: count }, () => ms);

describe("when an answer is late", () => {
  it("is guessed while nothing is known of a shard", () => {
    expect(after([]).lateAfterMs(1, 1)).toBe(250);
    expect(after(repeat(50, 3)).lateAfterMs(0, 4)).toBe(250);
  });

  it("is not before 40 ms, however quick a shard is", () => {
    expect(after(repeat(50, 1)).lateAfterMs(1, 4)).toBe(40);
  });

  it("follows the mean of a slow shard, and its deviation", () => {
    expect(after(repeat(200, 300)).lateAfterMs(1, 4)).toBeCloseTo(300, 0);
    const wide = after(Array.from({ length: 400 }, (_, i) => (i % 2 === 0 ? 100 : 300)));
    expect(wide.lateAfterMs(1, 4)).toBeGreaterThan(550);
    expect(wide.lateAfterMs(1, 4)).toBeLessThan(650);
  });

  it("is not moved far by one answer", () => {
    expect(after([...repeat(100, 10), 400]).lateAfterMs(1, 4)).toBeLessThan(240);
    expect(after([...repeat(100, 10), 400, ...repeat(40, 10)]).lateAfterMs(1, 4)).toBeLessThan(60);
  });

  it("is kept apart by powers of two of rows", () => {
    const times = new AnswerTimes(1);
    for (const ms of repeat(200, 50)) times.took(0, 1, ms);
    for (const ms of repeat(200, 400)) times.took(0, 129, ms);
    expect(times.lateAfterMs(0, 1)).toBeCloseTo(50, 0);
    for (const numRows of [129, 200, 256]) expect(times.lateAfterMs(0, numRows)).toBeCloseTo(400, 0);
    // Of a size never seen: as a larger one, or in proportion to a smaller one.
    for (const numRows of [2, 64, 128]) expect(times.lateAfterMs(0, numRows)).toBeCloseTo(400, 0);
    expect(times.lateAfterMs(0, 512)).toBeCloseTo(800, 0);
  });
});

it("slowness is how many times as long as usual", () => {
  const times = after(repeat(50, 20));
  expect(times.slowness(1, 4, 60)).toBeCloseTo(3);
  expect(times.slowness(1, 64, 60)).toBe(1);
  expect(times.slowness(0, 4, 60)).toBe(1);
});
