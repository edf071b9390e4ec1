import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkProvider } from "../../../actors/cli/check-gpu.ts";
import { doctorCommand } from "../../../actors/cli/doctor.ts";
import { rally } from "../../support/cli.ts";

interface Answer {
  readonly ok: boolean;
  readonly checks: readonly {
    readonly name: string;
    readonly state: string;
    readonly found: string;
    readonly advice?: string;
  }[];
}

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

async function diagnose(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const healthy = { RALLY_NATS_SERVER: "/no/such/nats-server", XDG_CACHE_HOME: dir, XDG_DATA_HOME: dir };
  const { status, stdout } = await rally([doctorCommand], ["doctor", "--json", ...args], {
    env: { ...healthy, ...env },
  });
  const { ok, checks } = JSON.parse(stdout) as Answer;
  return { status, ok, of: (name: string) => checks.find((check) => check.name === name) };
}

test("says what is in order", async () => {
  const { of } = await diagnose(["--model", dir]);
  expect(of("Node.js")).toEqual({
    name: "Node.js",
    state: "ok",
    found: `${process.version} on ${process.platform} ${process.arch}`,
  });
  expect(of("onnxruntime-node")).toMatchObject({ state: "ok", found: expect.stringMatching(/^\d+\.\d+\.\d+ loads$/) });
  expect(of("cache folder")).toEqual({ name: "cache folder", state: "ok", found: path.join(dir, "rally") });
  expect(of("machine")?.found).toMatch(/cores?, \d+ MiB of \d+ MiB free/);
});

test("a nats-server that is not there yet is a warning: it may be fetched", async () => {
  const { of } = await diagnose(["--model", dir]);
  expect(of("nats-server")).toMatchObject({ state: "warning", advice: expect.stringContaining("RALLY_NATS_SERVER") });
});

test("a server that does not answer is missing", async () => {
  const { status, ok, of } = await diagnose(["--nats", "nats://127.0.0.1:1"]);
  expect(of("NATS server")).toMatchObject({
    state: "missing",
    advice: expect.stringContaining("check that the server runs"),
  });
  expect([status, ok]).toEqual([1, false]);
});

test("a model that is none is missing, and status 1", async () => {
  const { status, ok, of } = await diagnose(["--model", dir]);
  expect(of("model")).toMatchObject({
    state: "missing",
    found: expect.stringContaining(path.join(dir, "config.json")),
  });
  expect([status, ok]).toEqual([1, false]);
});

test("a folder that cannot be is missing", async () => {
  writeFileSync(path.join(dir, "file"), "");
  const { of } = await diagnose([], { XDG_CACHE_HOME: path.join(dir, "file") });
  expect(of("cache folder")).toMatchObject({ state: "missing", advice: expect.stringContaining("XDG_CACHE_HOME") });
});

test("for a person it is a table", async () => {
  const { stdout, status } = await rally([doctorCommand], ["doctor", "--model", dir], {
    env: { RALLY_NATS_SERVER: "/no/such/nats-server", XDG_CACHE_HOME: dir, XDG_DATA_HOME: dir },
  });
  expect(stdout).toMatch(/^ok +Node\.js +v/m);
  expect(stdout).toMatch(/^missing +model +/m);
  expect(stdout).toContain("Rally cannot run here yet.");
  expect(status).toBe(1);
});

const hasGpu = existsSync("/proc/driver/nvidia");

test.skipIf(hasGpu)("no GPU is no lack", async () => {
  const { of } = await diagnose(["--model", dir]);
  expect(of("GPU")).toMatchObject({ state: "ok", found: expect.stringContaining("none; --provider cpu") });
  expect(of("CUDA provider")).toBeUndefined();
});

test.skipIf(hasGpu)("unless it is to compute", async () => {
  const { status, ok, of } = await diagnose(["--provider", "cuda"]);
  expect(of("NVIDIA driver")).toMatchObject({ state: "missing", found: "none" });
  expect(of("CUDA provider")).toMatchObject({ state: "missing", advice: expect.stringContaining("rally gpu setup") });
  expect([status, ok]).toEqual([1, false]);
});

test("a graph is run to see whether a provider computes", async () => {
  expect(await checkProvider("cpu", process.env, "missing")).toEqual({
    name: "provider cpu",
    state: "ok",
    found: "computes",
  });
});

test.skipIf(hasGpu)("and if it does not, its words are told", async () => {
  expect(await checkProvider("cuda", { ...process.env, XDG_CACHE_HOME: dir }, "missing")).toMatchObject({
    state: "missing",
    found: expect.stringContaining("did not load"),
  });
});
