import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { COMMANDS } from "../../../actors/cli/commands.ts";
import type { ChaosSummary } from "../../../actors/chaos/result.ts";
import { systemClock } from "../../../infra/clock.ts";
import { rally } from "../../support/cli.ts";
import { writeSmallModel } from "../../support/chaos/small-model.ts";
import { startDeployment } from "../../support/deployment.ts";

describe("rally chaos", () => {
  let folder: string;
  let model: ReturnType<typeof writeSmallModel>;

  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), "rally-chaos-test-"));
    model = writeSmallModel();
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
    model.remove();
  });

  const scenario = (name: string, text: string) => {
    const file = path.join(folder, `${name}.yaml`);
    writeFileSync(file, text);
    return file;
  };
  const chaos = (...args: readonly string[]) =>
    rally(COMMANDS, ["chaos", ...args, "--model", model.modelDir], { env: process.env, clock: systemClock });

  it("lists scenarios and faults", async () => {
    const { status, stdout } = await chaos("--list");
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ {2}expert-kill +an expert replica is killed/m);
    expect(stdout).toMatch(/^ {2}half-open +the server forgets/m);
  });

  it("says what is wrong before anything starts, with status 2", async () => {
    const unknown = await chaos("expert-kil");
    expect(unknown.status).toBe(2);
    expect(unknown.stderr).toMatch(/no scenario "expert-kil": neither a YAML file nor one of .*expert-kill/);
    const good = scenario("good", "load: { requests: 1 }\n");
    const bad = scenario("bad", "load:\n  requests: none\n");
    const wrong = await chaos(good, bad);
    expect(wrong.status).toBe(2);
    expect(wrong.stderr).toContain(`${bad}:2: load.requests must be an integer`);
    const aimless = scenario("aimless", "faults: [{ kind: kill, atMs: 1, target: { role: expert, shard: 7 } }]\n");
    expect((await chaos(good, aimless)).stderr).toContain("nothing in the topology is role expert, shard 7");
  });

  it("kills, compares and reports", { timeout: 180_000 }, async () => {
    const file = scenario(
      "kills",
      `
topology: { replicas: 2 }
load: { arrival: { kind: closed, concurrency: 4 }, requests: 16, outputTokens: [{ min: 48, max: 64 }] }
faults:
  - { kind: kill, target: { role: expert, shard: 0 }, atMs: 400 }
  - { kind: partition, target: { role: client }, durationMs: 100, atMs: 1000 }
`,
    );
    const report = path.join(folder, "report.html");
    const { status, stdout } = await chaos(file, "--seed", "4", "--json", "--report", report);
    const summary = JSON.parse(stdout) as ChaosSummary;
    expect(summary).toMatchObject({
      faults: 2,
      differing: 0,
      lost: 0,
      duplicated: 0,
      unended: 0,
      failed: 0,
      leaked: 0,
      held: true,
    });
    expect(summary.requests).toBeGreaterThanOrEqual(16);
    expect(summary.throughputRatio).toBeGreaterThan(0);
    expect(Object.keys(summary.recoveryMs)).toContain("partition");
    expect(status).toBe(0);
    expect(readFileSync(report, "utf8")).toContain("EVERY PROMISE HELD");
    expect(existsSync(path.join(folder, "report.json"))).toBe(true);
  });

  it("fails a limit that does not hold, with status 1", { timeout: 180_000 }, async () => {
    const file = scenario(
      "limit",
      `
load: { arrival: { kind: closed, concurrency: 2 }, requests: 6, outputTokens: [{ min: 24, max: 32 }] }
faults: [{ kind: stop, target: { role: attention }, durationMs: 400, atMs: 200, everyMs: 700, count: 3 }]
hold: { recoveryMs: { stop: { p99: 100 } } }
`,
    );
    const { status, stdout } = await chaos(file);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^BROKEN {2}limit: \d+ requests, 3 faults, seed 1$/m);
    expect(stdout).toMatch(/limit: longest gap between tokens after stop: p99 \d+ ms, limit 100 ms/);
  });

  it("torments a deployment that is there already, as far as it can", { timeout: 180_000 }, async () => {
    const deployment = await startDeployment({ modelDir: model.modelDir, deployment: "there", numReplicas: 2 });
    try {
      const { url } = deployment.supervisor.nats.settings;
      const file = scenario(
        "there",
        `
load: { arrival: { kind: closed, concurrency: 4 }, requests: 12, outputTokens: [{ min: 16, max: 32 }] }
faults:
  - { kind: kill, target: { role: expert, shard: 1 }, atMs: 100 }
  - { kind: client-crash, requests: 2, durationMs: 50, atMs: 200 }
  - { kind: poison-message, messages: 12, atMs: 300 }
  - { kind: disconnect, target: { role: client }, atMs: 400 }
  - { kind: broker-kill, atMs: 500 }
`,
      );
      const { status, stdout } = await chaos(file, "--nats", url, "--deployment", "there");
      expect(stdout).toMatch(/^held {2}there: \d+ requests, 4 faults, 1 could not be injected, seed 1$/m);
      expect(status).toBe(0);
      expect(deployment.warnings.join()).toMatch(/expert-1-\d ended by SIGKILL/);
      const nowhere = await chaos(file, "--nats", url, "--deployment", "elsewhere");
      expect(nowhere.status).toBe(1);
      expect(nowhere.stderr).toContain("no deployment elsewhere is served there");
    } finally {
      await deployment.stop();
    }
  });
});
