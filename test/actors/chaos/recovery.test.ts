import { describe, expect, it } from "vitest";
import { capacityAlive } from "../../../actors/chaos/capacity.ts";
import type { DeploymentEvent } from "../../../actors/chaos/chaos-target.ts";
import type { InjectedFault } from "../../../actors/chaos/injected.ts";
import { quantile, recoveryOf } from "../../../actors/chaos/recovery.ts";
import { newRecord, type RequestRecord } from "../../../actors/chaos/request-record.ts";
import { StallWatch, stalledMs } from "../../../actors/chaos/stall-watch.ts";
import { targetSlots } from "../../../actors/chaos/target-slots.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { topologyOf } from "../../support/topology.ts";

const stream = (arrivals: number[], endedMs?: number): RequestRecord => ({
  ...newRecord({ requestId: "r", pool: 0, startedMs: 0, allowedMs: 1e6 }),
  arrivals,
  endedMs,
});
const fault: InjectedFault = {
  id: 3,
  kind: "kill",
  target: "expert-0",
  plannedMs: 1_000,
  struckMs: 1_000,
  healedMs: 1_200,
  skipped: undefined,
  note: undefined,
};

describe("recoveryOf", () => {
  it("takes the longest gap of any live stream, and when the last one moved", () => {
    const records = [stream([900, 990, 1_300, 1_350], 1_400), stream([950, 1_600, 1_700], 1_800)];
    expect(recoveryOf(fault, records, [])).toEqual({ faultId: 3, numLive: 2, longestGapMs: 650, allMovedMs: 600 });
  });

  it("leaves out streams that had not begun or had ended, and gaps before and long after", () => {
    const records = [
      stream([1_500, 9_000], 9_100),
      stream([100, 900], 950),
      stream([100, 990, 1_010, 1_900, 2_100, 2_300, 60_000], 60_001),
    ];
    // From 1900 to 2100 begins before a second after the end of the fault; from 2300 on is another story.
    expect(recoveryOf(fault, records, [])).toMatchObject({ numLive: 1, longestGapMs: 890, allMovedMs: 10 });
  });

  it("takes the ending for a sign of life", () => {
    expect(recoveryOf(fault, [stream([990], 1_100)], [])).toMatchObject({ longestGapMs: 110, allMovedMs: 100 });
  });

  it("takes out what the harness itself slept through", () => {
    const stalls = [{ fromMs: 1_050, toMs: 1_450 }];
    expect(recoveryOf(fault, [stream([950, 1_500], 1_501)], stalls)).toMatchObject({
      longestGapMs: 150,
      allMovedMs: 100,
    });
    expect(stalledMs(stalls, 1_000, 1_100)).toBe(50);
    expect(stalledMs(stalls, 1_500, 1_600)).toBe(0);
  });
});

describe("quantile", () => {
  it("is a value that was there", () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect([quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1)]).toEqual([50, 99, 100]);
    expect(quantile([7], 0.99)).toBe(7);
    expect(quantile([], 0.5)).toBe(0);
  });
});

describe("capacityAlive", () => {
  const slots = targetSlots(topologyOf({ numShards: 2, numReplicas: 2 }));
  const event = (atMs: number, kind: DeploymentEvent["kind"], source: string): DeploymentEvent => ({
    atMs,
    kind,
    source,
    text: "",
  });

  it("is that of the worst-hit group", () => {
    const events = [
      event(100, "down", "expert-0-0"),
      event(300, "ready", "expert-0-0"),
      event(500, "down", "expert-1-1"),
      event(600, "ready", "expert-1-1"),
      event(5_000, "down", "attention-0"),
    ];
    expect(capacityAlive(slots, events, 1_000)).toBeCloseTo(0.9);
    expect(capacityAlive(slots, [], 1_000)).toBe(1);
    expect(capacityAlive(slots, [event(250, "down", "attention-0")], 1_000)).toBeCloseTo(0.25);
  });
});

describe("StallWatch", () => {
  it("notices a time in which nothing ran", () => {
    const clock = new SimulatedClock();
    let asleepMs = 0;
    const watch = new StallWatch({
      now: () => 0,
      elapsed: () => clock.elapsed() + asleepMs,
      after: (ms, callback) => clock.after(ms, callback),
    });
    clock.advance(200);
    expect(watch.stalls).toEqual([]);
    asleepMs = 5_000;
    clock.advance(40);
    expect(watch.stalls).toEqual([{ fromMs: 220, toMs: 5_220 }]);
    watch.close();
    expect(clock.pending).toBe(0);
  });
});
