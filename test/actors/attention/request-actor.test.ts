import { afterEach, expect, it, vi } from "vitest";
import { createRequestActor } from "../../../actors/attention/request-actor.ts";

afterEach(() => void vi.restoreAllMocks());

it("counts what its transitions cost, and not how long it was interrupted", () => {
  let now = 0;
  let step = 0.01;
  vi.spyOn(performance, "now").mockImplementation(() => (now += step));
  const actor = createRequestActor();
  const created = actor.spentMs;
  expect(created).toBeGreaterThan(0);
  actor.send("admit");
  const short = actor.spentMs - created;
  expect(short).toBeGreaterThan(0);
  expect(short).toBeLessThan(0.5);
  step = 50;
  actor.send("firstToken");
  expect(actor.spentMs - created - short).toBeCloseTo(0.5);
});
