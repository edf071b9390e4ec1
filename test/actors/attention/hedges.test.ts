import { expect, it } from "vitest";
import { Hedges } from "../../../actors/attention/hedges.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

const numTaken = (hedges: Hedges) => {
  let count = 0;
  while (hedges.take()) count++;
  return count;
};

it("as many second questions as a dead replica leaves open, then one for ten answers or a tenth of a second", () => {
  const clock = new SimulatedClock();
  const hedges = new Hedges(clock);
  expect(numTaken(hedges)).toBe(16);
  for (let i = 0; i < 35; i++) hedges.answered();
  expect(numTaken(hedges)).toBe(3);
  clock.advance(450);
  expect(numTaken(hedges)).toBe(5);
  clock.advance(60_000);
  for (let i = 0; i < 1000; i++) hedges.answered();
  expect(numTaken(hedges)).toBe(16);
});
