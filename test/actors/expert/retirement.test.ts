import { beforeEach, expect, test } from "vitest";
import { Retirement } from "../../../actors/expert/retirement.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

let clock: SimulatedClock;
let numBatches: number;
let retired: string[];
let retirement: Retirement;

beforeEach(() => {
  clock = new SimulatedClock();
  numBatches = 10;
  retired = [];
  retirement = new Retirement({
    clock,
    epoch: 2,
    numBatches: async () => numBatches,
    retire: (why) => retired.push(why),
  });
});

async function seconds(count: number, each: () => void = () => undefined): Promise<void> {
  for (let i = 0; i < count; i++) {
    each();
    clock.advance(1000);
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

test("the current placement's experts stay, and so do the next one's", async () => {
  retirement.placed("current", 1);
  retirement.placed("next", 2);
  await seconds(20);
  retirement.placed("current", 2);
  await seconds(20);
  retirement.placed("next", 3);
  await seconds(20);
  expect([retired, clock.pending]).toEqual([[], 0]);
});

test("once another is current, they leave when nothing has come for five seconds", async () => {
  retirement.placed("current", 2);
  retirement.placed("current", 3);
  await seconds(10, () => numBatches++);
  expect(retired).toEqual([]);
  await seconds(4);
  expect(retired).toEqual([]);
  await seconds(1);
  expect(retired).toEqual(["placement 2 was followed by 3, and nobody uses it any more"]);
  await seconds(10);
  expect([retired.length, clock.pending]).toEqual([1, 0]);
});

test("a placement that was announced and passed over is not waited for", async () => {
  retirement.placed("current", 1);
  retirement.placed("next", 2);
  retirement.placed("next", 3);
  await seconds(7);
  expect(retired).toHaveLength(1);
});

test("before anything is known, and after closing, nobody leaves", async () => {
  await seconds(20);
  retirement.placed("current", 3);
  retirement.close();
  await seconds(20);
  retirement.placed("current", 4);
  expect([retired, clock.pending]).toEqual([[], 0]);
});
