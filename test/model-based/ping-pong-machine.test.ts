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
const WAYS = ways(pingPongMachine, PING_PONG_EVENTS).filter(({ events, states }) =>
  events.every((event, i) => {
    const before = i === 0 ? "idle" : states[i - 1];
    return ITS_OWN.includes(event) === (before === "combining");
  }),
);

beforeEach(() => {
  seen.phase = "idle";
});

describe("the ping-pong machine in an engine, every event in every phase", () => {
  for (const by of ["release", "failure"] as const) {
    for (const ending of ["run", "close"] as const) {
      it.each(WAYS)(`abandoned by ${by}, then ${ending}: $told`, async ({ events, states }) => {
        const driver = new PingPongDriver(events.includes("lastLayer") ? 1 : 3, by);
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
