import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Worker } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { allowedCores, pin, threadId } from "../../infra/cores.ts";

describe.skipIf(process.platform !== "linux")("cores", () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(path.join(tmpdir(), "rally-cores-"));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it.each([
    ["0", [0]],
    ["0-3", [0, 1, 2, 3]],
    ["1,4-5,9", [1, 4, 5, 9]],
  ])("reads %s as the kernel writes it", (list, cores) => {
    const file = path.join(dir, "status");
    writeFileSync(file, `Name:\tnode\nCpus_allowed:\tff\nCpus_allowed_list:\t${list}\nMems_allowed_list:\t0\n`);
    expect(allowedCores(file)).toEqual(cores);
  });

  it("knows no cores where there is no /proc", () => {
    expect(allowedCores(path.join(dir, "missing"))).toBeUndefined();
  });

  it("tells threads apart", async () => {
    expect(readdirSync("/proc/self/task").map(Number)).toContain(threadId());
    const script = `require("node:worker_threads").parentPort.postMessage(require("node:fs").readlinkSync("/proc/thread-self"))`;
    const worker = new Worker(script, { eval: true });
    const other = await new Promise<string>((resolve) => worker.once("message", resolve));
    await worker.terminate();
    expect(other.endsWith(`/${threadId()}`)).toBe(false);
  });

  it("pins one thread, or all of a process", async () => {
    const child = spawn("sleep", ["60"], { stdio: "ignore" });
    const pid = child.pid as number;
    try {
      const [first] = allowedCores() ?? [];
      await pin(pid, [first as number]);
      expect(allowedCores(`/proc/${pid}/status`)).toEqual([first]);
      await pin(pid, allowedCores() ?? [], "all");
      expect(allowedCores(`/proc/${pid}/status`)).toEqual(allowedCores());
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("says what is wrong when a thread cannot be pinned", async () => {
    await expect(pin(threadId(), [1_000_000])).rejects.toMatchObject({
      code: "bad-settings",
      fields: { field: "cores", found: "1000000" },
    });
    const { PATH } = process.env;
    process.env["PATH"] = dir;
    try {
      await expect(pin(threadId(), allowedCores() ?? [])).rejects.toMatchObject({
        code: "bad-settings",
        message: expect.stringContaining("util-linux"),
      });
    } finally {
      process.env["PATH"] = PATH;
    }
  });
});
