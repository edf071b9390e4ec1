import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OwnDeployment } from "../../../actors/chaos/own-deployment.ts";
import type { ScenarioResult } from "../../../actors/chaos/result.ts";
import { runScenario } from "../../../actors/chaos/run-scenario.ts";
import { parseScenario } from "../../../actors/chaos/scenario-file.ts";
import { DEFAULT_TOPOLOGY } from "../../../actors/supervisor/topology.ts";
import { packageRoot } from "../../../infra/own-file.ts";
import { writeSmallModel } from "../../support/chaos/small-model.ts";

const SCENARIO = `
name: oracle
load:
  arrival: { kind: closed, concurrency: 4 }
  requests: 12
  outputTokens: [{ min: 24, max: 40 }]
  deadlineMs: 10000
faults:
  - { kind: stop, target: { role: expert }, durationMs: 100, atMs: 100 }
hold:
  idleWithinMs: 12000
`;

/** A build with one promise broken on purpose must fail the run, and fail it for that promise. */
describe("the oracle", () => {
  let model: ReturnType<typeof writeSmallModel>;

  beforeAll(() => {
    model = writeSmallModel();
  });
  afterAll(() => model.remove());

  async function run(broken: string | undefined, victim = /^chaos-.*-5$/): Promise<ScenarioResult> {
    const preload = new URL("../../support/chaos/break-promise.mjs", import.meta.url).href;
    const scenario = parseScenario("oracle.yaml", SCENARIO);
    const target = await OwnDeployment.start(
      {
        topology: { ...DEFAULT_TOPOLOGY, deployment: "oracle", modelDir: model.modelDir },
        sharedMemory: true,
        hasProxies: false,
        hasClocks: false,
        seed: scenario.seed,
        progress: () => undefined,
        ...(broken !== undefined && {
          env: {
            NODE_OPTIONS: `--import ${preload}`,
            RALLY_TEST_BREAK: broken,
            RALLY_TEST_BREAK_REQUEST: victim.source,
            RALLY_TEST_DIST: path.join(packageRoot, "dist"),
          },
        }),
      },
      () => undefined,
    );
    return await runScenario({
      scenario,
      seed: scenario.seed,
      target,
      topology: "",
      moveClock: undefined,
      signal: new AbortController().signal,
      progress: () => undefined,
    });
  }

  it("sees nothing where there is nothing", { timeout: 180_000 }, async () => {
    const result = await run(undefined);
    expect(result.findings).toEqual([]);
    expect(result).toMatchObject({ held: true, requests: 12, faults: 1, leaked: 0 });
  });

  it.each([
    ["lost", "lost"],
    ["changed", "differing"],
    ["duplicated", "duplicated"],
    ["unended", "unended"],
    ["ended-twice", "duplicated"],
  ] as const)("sees a stream that is %s", { timeout: 180_000 }, async (broken, flaw) => {
    const result = await run(broken);
    expect(result.held).toBe(false);
    expect(result[flaw]).toBe(1);
    const finding = result.findings.find((candidate) => candidate.flaw === flaw);
    expect(finding?.requestId).toMatch(/^chaos-.*-5$/);
    expect(finding?.led.map(({ text }) => text)).toContain("the client sends it");
    // The others are as they should be.
    expect(new Set(result.findings.flatMap(({ requestId }) => requestId ?? [])).size).toBe(1);
  });

  it.each([
    ["under faults", /^chaos-.*-5$/],
    ["before the first fault", /^free-.*-5$/],
  ])("sees a slot that is not given back %s", { timeout: 180_000 }, async (_, victim) => {
    const result = await run("leaked", victim);
    expect(result).toMatchObject({ held: false, leaked: 1, differing: 0, lost: 0, duplicated: 0, unended: 0 });
    expect(result.findings.map(({ text }) => text)).toEqual([
      "when all was over, attention-0: activeSequences: 1 more than before",
    ]);
  });
});
