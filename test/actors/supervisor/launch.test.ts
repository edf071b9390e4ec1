import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, expect, test } from "vitest";
import { forkLauncher, type RoleProcess } from "../../../actors/supervisor/launch.ts";
import { attentionSlots, type RoleSlot, type Topology } from "../../../actors/supervisor/topology.ts";
import type { RoleReport } from "../../../actors/protocol/role.ts";
import { topologyOf } from "../../support/topology.ts";

const fakeRole = fileURLToPath(new URL("../../support/fake-role.mjs", import.meta.url));
const started: Forked[] = [];
const cudaHome = mkdtempSync(path.join(tmpdir(), "rally-test-"));
afterAll(() => rmSync(cudaHome, { recursive: true }));

interface Forked {
  readonly process: RoleProcess;
  readonly exited: Promise<string>;
  readonly heard: (kind: RoleReport["kind"]) => Promise<RoleReport>;
}

/** A real process with a real channel. */
function fork(deployment: string, file = fakeRole, provider: Topology["provider"] = "cpu"): Forked {
  const reports: RoleReport[] = [];
  let wake: (() => void) | undefined;
  let ended: ((how: string) => void) | undefined;
  const exited = new Promise<string>((resolve) => (ended = resolve));
  const [slot] = attentionSlots(topologyOf({ deployment, provider }), { url: "nats://test" }, false);
  const process = forkLauncher(() => file, { LD_LIBRARY_PATH: "/mine", CUDA_HOME: cudaHome })(
    (slot as RoleSlot).settings("attention-0-x"),
    {
      report: (report) => {
        reports.push(report);
        wake?.();
      },
      exit: (how, lastLines) => ended?.(`${how}; ${lastLines}`),
    },
  );
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

test("a role that computes on a GPU finds CUDA's libraries", async () => {
  const onCpu = fork("environment");
  expect(await onCpu.heard("progress")).toEqual({ kind: "progress", text: "/mine" });
  mkdirSync(path.join(cudaHome, "lib64"));
  // Not on this machine's own loader path, whatever else is.
  writeFileSync(path.join(cudaHome, "lib64/libcurand.so.10"), "");
  const onGpu = fork("environment", fakeRole, "cuda");
  const { text } = (await onGpu.heard("progress")) as { readonly text: string };
  expect(text.split(":")).toEqual(expect.arrayContaining(["/mine", path.join(cudaHome, "lib64")]));
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
