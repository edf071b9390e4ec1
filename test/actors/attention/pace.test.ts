import { expect, it } from "vitest";
import { Pace } from "../../../actors/attention/pace.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

it("measures over windows of a second, and ignores pauses", () => {
  const clock = new SimulatedClock();
  const pace = new Pace(clock);
  const work = (ms: number, tokensPerStep: number) => {
    for (let passed = 0; passed < ms; passed += 100) {
      clock.advance(100);
      pace.tokens(tokensPerStep);
    }
  };
  expect(pace.msFor(100, 4)).toBe(0);
  work(5000, 2);
  expect(pace.msFor(100, 4) / 20_000).toBeCloseTo(1, 1);
  clock.advance(60_000);
  work(2000, 2);
  expect(pace.msFor(100, 4) / 20_000).toBeCloseTo(1, 1);
  work(20_000, 8);
  expect(pace.msFor(100, 4) / 5000).toBeCloseTo(1, 1);
});
