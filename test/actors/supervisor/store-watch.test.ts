import { beforeEach, expect, test } from "vitest";
import { StoreWatch } from "../../../actors/supervisor/store-watch.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { type ErrorCode, RallyError } from "../../../infra/errors.ts";

let clock: SimulatedClock;
let answer: ErrorCode | undefined;
let generation: number;
let silences: string[];
let watch: StoreWatch;

beforeEach(() => {
  clock = new SimulatedClock();
  answer = undefined;
  generation = 1;
  silences = [];
  watch = new StoreWatch({
    clock,
    ask: () => (answer === undefined ? Promise.resolve() : Promise.reject(new RallyError(answer, "no"))),
    generation: () => generation,
    silent: (why) => silences.push(why),
  });
});

async function questions(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    clock.advance(2000);
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

test.each(["timeout", "server-unavailable"] as const)("three questions that end in %s are silence", async (code) => {
  answer = code;
  await questions(2);
  expect(silences).toEqual([]);
  await questions(1);
  expect(silences).toEqual(["it has not answered 3 questions"]);
});

test("an answer, even a refusal, begins the count anew", async () => {
  for (const code of [undefined, "store-unavailable"] as const) {
    answer = "timeout";
    await questions(2);
    answer = code;
    await questions(1);
  }
  answer = "timeout";
  await questions(2);
  expect(silences).toEqual([]);
});

test("a server that has just been started gets its time", async () => {
  answer = "timeout";
  await questions(2);
  generation++;
  await questions(3);
  expect(silences).toEqual([]);
  await questions(1);
  expect(silences).toHaveLength(1);
});

test("nothing is asked after stop", async () => {
  answer = "timeout";
  await questions(2);
  watch.stop();
  expect(clock.pending).toBe(0);
});
