import { describe, expect, it } from "vitest";
import { lastCountedMs, type PlannedFault, schedule } from "../../../actors/chaos/schedule.ts";
import { targetSlots } from "../../../actors/chaos/target-slots.ts";
import { workload } from "../../../actors/chaos/workload.ts";
import { scenarioOf } from "../../support/chaos/scenarios.ts";
import { topologyOf } from "../../support/topology.ts";

const SLOTS = targetSlots(topologyOf({ numAttention: 2, numShards: 2, numReplicas: 3 }));
const MIXED = scenarioOf(`
faults:
  - { kind: stop, target: { role: expert, shard: 1 }, atMs: 100, everyMs: 250, count: 4, durationMs: 1000 }
  - { kind: kill, atMs: 50 }
  - everyMs: 100
    count: 50
    mix: [{ weight: 2, kind: drop }, { kind: broker-kill }, { kind: kill, target: { role: attention } }]
`);

const all = (seed: number): PlannedFault[] => [...schedule(MIXED, SLOTS, seed)];

describe("schedule", () => {
  it("is the same for the same seed, and another for another", () => {
    expect(all(1)).toEqual(all(1));
    expect(all(1)).not.toEqual(all(2));
  });

  it("is in order of time, each fault numbered", () => {
    const faults = all(3);
    expect(faults).toHaveLength(55);
    expect(faults.map(({ id }) => id)).toEqual(faults.map((_, i) => i));
    expect(faults.map(({ atMs }) => atMs)).toEqual(faults.map(({ atMs }) => atMs).toSorted((a, b) => a - b));
  });

  it("strikes at its times, and at random ones on average", () => {
    const faults = all(4);
    expect(faults.filter(({ fault }) => fault.kind === "stop").map(({ atMs }) => atMs)).toEqual([100, 350, 600, 850]);
    expect(faults.at(-1)?.atMs).toBeGreaterThan(2_500);
    expect(faults.at(-1)?.atMs).toBeLessThan(10_000);
  });

  it("aims within what the target allows, at all of it, and at the client only by name", () => {
    const targets = (kind: string) =>
      [1, 2, 3, 4, 5, 6]
        .flatMap((seed) => all(seed).filter(({ fault }) => fault.kind === kind))
        .map(({ target }) => target);
    expect(new Set(targets("stop"))).toEqual(new Set(["expert-1-0", "expert-1-1", "expert-1-2"]));
    expect(new Set(targets("drop")).size).toBe(8);
    expect(targets("drop")).not.toContain("client");
    expect(new Set(targets("broker-kill"))).toEqual(new Set([undefined]));
    const client = scenarioOf("faults: [{ kind: disconnect, atMs: 1, target: { role: client } }]");
    expect([...schedule(client, SLOTS, 1)][0]?.target).toBe("client");
  });

  it("does not change a plan because of another one", () => {
    const alone = { ...MIXED, faults: MIXED.faults.slice(0, 1) };
    const stops = all(5).filter(({ fault }) => fault.kind === "stop");
    expect([...schedule(alone, SLOTS, 5)].map(({ target }) => target)).toEqual(stops.map(({ target }) => target));
  });

  it("goes on for ever without a count, and then keeps nobody waiting", () => {
    const endless = scenarioOf("faults: [{ kind: kill, atMs: 10, everyMs: 10 }]");
    const iterator = schedule(endless, SLOTS, 1);
    for (let i = 0; i < 1_000; i++) expect(iterator.next().value?.atMs).toBe(10 * (i + 1));
    expect(lastCountedMs(endless, SLOTS, 1)).toBe(0);
    expect(lastCountedMs({ ...MIXED, faults: MIXED.faults.slice(0, 2) }, SLOTS, 1)).toBe(1_850);
  });
});

describe("workload", () => {
  const model = { encode: (text: string) => [...Buffer.from(text)], bosTokenId: 1 };
  const { load } = scenarioOf(`
load:
  distinct: 200
  promptTokens: [{ weight: 9, min: 2, max: 3 }, { weight: 1, min: 50, max: 60 }]
  outputTokens: [{ min: 5, max: 6 }]
  sampling: [{ temperature: 0 }, { temperature: 0.5 }]
`);

  it("is the same for the same seed, and another for another", () => {
    expect(workload(load, model, 1)).toEqual(workload(load, model, 1));
    expect(workload(load, model, 1)).not.toEqual(workload(load, model, 2));
  });

  it("mixes as it is told", () => {
    const requests = workload(load, model, 1);
    const long = requests.filter(({ prompt }) => prompt.length > 50);
    expect(long.length).toBeGreaterThan(5);
    expect(long.length).toBeLessThan(45);
    expect(new Set(requests.map(({ maxTokens }) => maxTokens))).toEqual(new Set([5, 6]));
    expect(new Set(requests.map(({ sampling }) => sampling.temperature))).toEqual(new Set([0, 0.5]));
    expect(requests.every(({ prompt }) => prompt[0] === 1)).toBe(true);
  });

  it("keeps a request when there are more of them", () => {
    expect(workload({ ...load, distinct: 10 }, model, 1)).toEqual(workload(load, model, 1).slice(0, 10));
  });
});
