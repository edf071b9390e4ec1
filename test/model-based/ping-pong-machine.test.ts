import { beforeEach, describe, expect, it, vi } from "vitest";
import { PING_PONG_EVENTS, pingPongMachine } from "../../actors/attention/ping-pong.machine.ts";
import { transitionsOf, ways } from "./paths.ts";
import { PingPongDriver } from "./ping-pong-driver.ts";

/** The phase of the only micro-batch there is, and every transition that the engine has made. */
const seen = vi.hoisted(() => ({ phase: "idle", transitions: new Set<string>() }));

vi.mock("../../actors/attention/ping-pong.table.ts", async (importOriginal) => {
  const original = await importOriginal<typeof import("../../actors/attention/ping-pong.table.ts")>();
  const nextPhase: typeof original.nextPhase = (phase, event) => {
    seen.transitions.add(`${phase}+${event}`);
    const next = original.nextPhase(phase, event);
    seen.phase = next;
    return next;
  };
  return { ...original, nextPhase };
});

/** What the engine decides by itself, in no time: it cannot be made to happen in any other phase, nor anything in `combining`. */
const ITS_OWN = ["nextLayer", "lastLayer"];
const WAYS = ways(pingPongMachine, PING_PONG_EVENTS).filter(
  ({ events, states }) =>
    events.every((event, i) => {
      const before = i === 0 ? "idle" : states[i - 1];
      return ITS_OWN.includes(event) === (before === "combining");
    }) && hasOneDepth(events),
);

/** Layers of the model in which a way is possible. */
function numLayersOf(events: readonly string[]): number {
  const last = events.indexOf("lastLayer");
  if (last < 0) return 1 + events.filter((event) => event === "nextLayer").length;
  return 1 + events.slice(events.lastIndexOf("start", last), last).filter((event) => event === "nextLayer").length;
}

/** Whether every pass of a way fits the same model. */
function hasOneDepth(events: readonly string[]): boolean {
  let layer = 0;
  return events.every((event) => {
    if (event === "start") layer = 0;
    if (event === "nextLayer") return ++layer < numLayersOf(events);
    return event !== "lastLayer" || layer === numLayersOf(events) - 1;
  });
}

beforeEach(() => {
  seen.phase = "idle";
});

describe("the ping-pong machine in an engine, every event in every phase", () => {
  for (const by of ["release", "failure"] as const) {
    for (const ending of ["run", "close"] as const) {
      it.each(WAYS)(`abandoned by ${by}, then ${ending}: $told`, async ({ events, states }) => {
        const driver = new PingPongDriver(numLayersOf(events), by);
        let phase = "idle";
        for (const [i, event] of events.entries()) {
          await driver.event(event, phase);
          phase = states[i] ?? "";
          // The answer leads on at once.
          if (phase === "combining") continue;
          expect(seen.phase).toBe(phase);
          driver.expectPhase(phase);
        }
        await driver.finish(ending);
      });
    }
  }
});

it("and each of its transitions was made", () => {
  const expected = transitionsOf(pingPongMachine, PING_PONG_EVENTS);
  expect(expected.length).toBeGreaterThan(8);
  expect([...seen.transitions].sort()).toEqual(expected);
});
