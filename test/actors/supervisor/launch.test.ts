import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { forkLauncher, type RoleProcess } from "../../../actors/supervisor/launch.ts";
import { attentionSlots, type RoleSlot } from "../../../actors/supervisor/topology.ts";
import type { RoleReport } from "../../../actors/protocol/role.ts";
import { topologyOf } from "../../support/topology.ts";

const fakeRole = fileURLToPath(new URL("../../support/fake-role.mjs", import.meta.url));
const started: Forked[] = [];

interface Forked {
  readonly process: RoleProcess;
  readonly exited: Promise<string>;
  readonly heard: (kind: RoleReport["kind"]) => Promise<RoleReport>;
}

/** A real process with a real channel. */
function fork(deployment: string, file = fakeRole): Forked {
  const reports: RoleReport[] = [];
  let wake: (() => void) | undefined;
  let ended: ((how: string) => void) | undefined;
  const exited = new Promise<string>((resolve) => (ended = resolve));
  const [slot] = attentionSlots(topologyOf({ deployment }), { url: "nats://test" }, false);
  const process = forkLauncher(() => file)((slot as RoleSlot).settings("attention-0-x"), {
    report: (report) => {
      reports.push(report);
      wake?.();
    },
    exit: (how, lastLines) => ended?.(`${how}; ${lastLines}`),
  });
  const forked = {
    process,
    exited,
    async heard(kind: RoleReport["kind"]) {
      for (;;) {
        const report = reports.find((candidate) => candidate.kind === kind);
        if (report !== undefined) return report;
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
  };
  started.push(forked);
  return forked;
}

function isAlive(pid: number | undefined): boolean {
  try {
    return pid !== undefined && process.kill(pid, 0);
  } catch {
    return false;
  }
}

afterEach(async () => {
  for (const { process: role, exited } of started.splice(0)) {
    role.kill("SIGKILL");
    await exited;
    if (isAlive(role.pid)) throw new Error(`process ${role.pid} is left`);
  }
});

test("settings go in, reports and answers come out, drain ends it", async () => {
  const { process: role, heard, exited } = fork("quiet");
  await heard("ready");
  expect(await heard("progress")).toEqual({ kind: "progress", text: "role attention" });
  role.send({ kind: "stats" });
  expect(await heard("stats")).toMatchObject({ stats: { role: "attention", id: "attention-0-x" } });
  role.send({ kind: "drain" });
  expect(await exited).toBe("ended with status 0; ");
  role.send({ kind: "stats" });
  role.disconnect();
  role.kill("SIGKILL");
});

test("closing the channel ends it", async () => {
  const { process: role, heard, exited } = fork("quiet");
  await heard("ready");
  role.disconnect();
  expect(await exited).toBe("ended with status 0; ");
});

test("a crash tells how, and the last lines", async () => {
  expect(await fork("crashing").exited).toMatch(/ended with status 1; about to crash[^]*this role always crashes/);
});

test("a kill tells the signal", async () => {
  const { process: role, heard, exited } = fork("deaf");
  await heard("ready");
  role.kill("SIGKILL");
  expect(await exited).toBe("ended by SIGKILL; ");
});

test("a missing script is an end too", async () => {
  expect(await fork("quiet", "/no/such/role.mjs").exited).toMatch(/ended with status 1; [^]*Cannot find module/);
});
