import { readdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { FAULT_KINDS } from "../../../actors/chaos/faults.ts";
import { readScenarioFile } from "../../../actors/chaos/scenario-file.ts";
import { checkTargets } from "../../../actors/chaos/schedule.ts";
import { targetSlots } from "../../../actors/chaos/target-slots.ts";
import { RallyError } from "../../../infra/errors.ts";
import { packageRoot } from "../../../infra/own-file.ts";
import { scenarioOf } from "../../support/chaos/scenarios.ts";
import { topologyOf } from "../../support/topology.ts";

const LIBRARY = path.join(packageRoot, "test/chaos");

describe("a scenario file", () => {
  it("is read whole", () => {
    const scenario = scenarioOf(`
name: whole
description: everything a scenario can say
seed: 9
topology: { attention: 2, shards: 3, replicas: 4, microBatches: 2 }
sharedMemory: false
load:
  arrival: { kind: poisson, perSecond: 2.5 }
  requests: 30
  distinct: 10
  durationMs: 5000
  promptTokens: [{ weight: 2, min: 1, max: 4 }, { min: 5, max: 9 }]
  outputTokens: [{ min: 8, max: 8 }]
  sampling: [{ temperature: 0 }, { weight: 3, temperature: 0.7, topK: 20, seed: 5 }]
  deadlineMs: 20000
faults:
  - { kind: stop, target: { role: expert, shard: 1, replica: random }, durationMs: 700, atMs: 100, everyMs: 50, count: 3 }
  - { kind: drop, target: { role: client }, direction: from-server, subjects: "rally.*.tokens.>", atMs: 10 }
  - everyMs: 900
    count: 20
    mix: [{ weight: 3, kind: kill }, { kind: broker-kill }]
hold:
  recoveryMs: { kill: { p99: 250 }, stop: { p50: 100, p99: 500 } }
  throughputRatio: 0.5
  allowErrors: [overloaded]
  idleWithinMs: 5000
`);
    expect(scenario).toMatchObject({
      name: "whole",
      seed: 9,
      topology: { numAttention: 2, numShards: 3, numReplicas: 4, microBatches: 2 },
      sharedMemory: false,
      load: {
        arrival: { kind: "poisson", perSecond: 2.5 },
        requests: 30,
        distinct: 10,
        durationMs: 5000,
        promptTokens: [
          { weight: 2, min: 1, max: 4 },
          { weight: 1, min: 5, max: 9 },
        ],
        sampling: [
          { weight: 1, params: { temperature: 0 } },
          { weight: 3, params: { temperature: 0.7, topK: 20, seed: 5 } },
        ],
      },
      hold: {
        recoveryMs: { kill: { p99: 250 } },
        throughputRatio: 0.5,
        allowErrors: ["overloaded"],
        idleWithinMs: 5000,
      },
    });
    expect(scenario.faults).toEqual([
      {
        timing: { atMs: 100, everyMs: 50, isRandom: false, count: 3 },
        mix: [
          {
            weight: 1,
            fault: {
              kind: "stop",
              target: { role: "expert", shard: 1 },
              numbers: { durationMs: 700 },
              direction: "both",
              subjects: undefined,
            },
          },
        ],
      },
      {
        timing: { atMs: 10, everyMs: undefined, isRandom: false, count: undefined },
        mix: [
          {
            weight: 1,
            fault: {
              kind: "drop",
              target: { role: "client" },
              numbers: { durationMs: 2000, probability: 0.1 },
              direction: "from-server",
              subjects: "rally.*.tokens.>",
            },
          },
        ],
      },
      {
        timing: { atMs: 0, everyMs: 900, isRandom: true, count: 20 },
        mix: [
          { weight: 3, fault: expect.objectContaining({ kind: "kill" }) as object },
          { weight: 1, fault: expect.objectContaining({ kind: "broker-kill" }) as object },
        ],
      },
    ]);
  });

  it.each([
    ["- 1\n", 1, "", /test\.yaml:1: the document must be a map of fields, found a list/],
    ["name: a\nname: b\n", 2, undefined, /test\.yaml:2: Map keys must be unique/],
    ["load: [\n", 2, undefined, /test\.yaml:2: Flow sequence/],
    ["seed: 1\nlode: {}\n", 2, "lode", /test\.yaml:2: unknown field lode; known here: .*load/],
    ["seed: many\n", 1, "seed", /seed must be an integer from 0 to \d+, found "many"/],
    ["topology: { shards: 0 }\n", 1, "topology.shards", /topology\.shards must be an integer from 1 to 64, found 0/],
    ["topology:\n  attention: 1\n  expert: 2\n", 3, "topology.expert", /unknown field topology\.expert/],
    ["load:\n  requests: 1.5\n", 2, "load.requests", /load\.requests must be an integer/],
    ["load:\n  arrival: { kind: burst }\n", 2, "load.arrival.kind", /one of closed, poisson, found "burst"/],
    ["load:\n  outputTokens:\n    - { min: 9, max: 4 }\n", 3, "load.outputTokens[0].max", /from 9 to/],
    ["load:\n  sampling: [{ temperature: 3 }]\n", 2, "load.sampling[0].temperature", /a number from 0 to 2, found 3/],
    ["load: 5\n", 1, "load", /load must be a map of fields, found 5/],
    ["faults: { kind: kill }\n", 1, "faults", /faults must be a list, found a map/],
    ["faults:\n  - { kind: explode, atMs: 1 }\n", 2, "faults[0].kind", /one of kill, stop.*found "explode"/],
    ["faults:\n  - { kind: kill }\n", 2, "faults[0].atMs", /faults\[0\]\.atMs must be a number.*found nothing/],
    ["faults:\n  - { kind: kill, atMs: 1, durationMs: 5 }\n", 2, "faults[0].durationMs", /unknown field/],
    ["faults:\n  - { kind: stop, atMs: 1, durationMs: -5 }\n", 2, "faults[0].durationMs", /found -5/],
    ["faults:\n  - { kind: kill, atMs: 1, count: 5 }\n", 2, "faults[0].everyMs", /as there is a count/],
    [
      "faults:\n  - { kind: kill, atMs: 1, target: { role: client } }\n",
      2,
      "faults[0].target.role",
      /attention, expert/,
    ],
    [
      "faults:\n  - { kind: kill, atMs: 1, target: { role: attention, shard: 1 } }\n",
      2,
      "faults[0].target.shard",
      /unknown/,
    ],
    [
      "faults:\n  - { kind: kill, atMs: 1, target: { role: expert, shard: all } }\n",
      2,
      "faults[0].target.shard",
      /"all"/,
    ],
    ["faults:\n  - everyMs: 5\n    mix: []\n", 3, "faults[0].mix", /at least one fault/],
    ["faults:\n  - everyMs: 5\n    mix: [{ kind: kill, wait: 1 }]\n", 3, "faults[0].mix[0].wait", /unknown field/],
    ["hold:\n  allowErrors: [oops]\n", 2, "hold.allowErrors[0]", /one of bad-request/],
    ["hold:\n  recoveryMs: { kil: { p99: 1 } }\n", 2, "hold.recoveryMs.kil", /unknown field/],
  ])("says what is wrong in %j", (text, line, field, message) => {
    let error: unknown;
    try {
      scenarioOf(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(RallyError);
    const { code, message: found, fields } = error as RallyError;
    expect(code).toBe("bad-settings");
    expect(found).toMatch(message);
    expect(fields).toMatchObject({ file: "test.yaml", line, ...(field !== undefined && { field }) });
  });
});

describe("the library", () => {
  const files = readdirSync(LIBRARY).filter((name) => name.endsWith(".yaml"));
  const scenarios = files.map((name) => readScenarioFile(path.join(LIBRARY, name)));

  it("can be read, is described, and aims at what is there", () => {
    expect(scenarios.filter(({ description }) => description === "").map(({ name }) => name)).toEqual([]);
    for (const scenario of scenarios) {
      checkTargets(scenario, targetSlots(topologyOf(scenario.topology)));
    }
  });

  it("has every kind of fault, and all of them in the soak", () => {
    const kindsOf = (chosen: typeof scenarios) =>
      new Set(chosen.flatMap(({ faults }) => faults.flatMap(({ mix }) => mix.map(({ fault }) => fault.kind))));
    expect(kindsOf(scenarios.filter(({ name }) => name !== "soak"))).toEqual(new Set(FAULT_KINDS));
    const soak = scenarios.filter(({ name }) => name === "soak");
    expect(kindsOf(soak)).toEqual(new Set(FAULT_KINDS));
    expect(soak[0]?.load.requests).toBeGreaterThanOrEqual(1_000);
    expect(soak[0]?.faults.reduce((sum, { timing }) => sum + (timing.count ?? 0), 0)).toBeGreaterThanOrEqual(300);
  });

  it("fails where the topology has no such target", () => {
    const scenario = scenarioOf("faults: [{ kind: kill, atMs: 1, target: { role: expert, shard: 5 } }]");
    expect(() => checkTargets(scenario, targetSlots(topologyOf()))).toThrow(
      /nothing in the topology is role expert, shard 5/,
    );
  });
});
