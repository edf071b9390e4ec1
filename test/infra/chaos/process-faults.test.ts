import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { pause } from "../../../infra/chaos/pause.ts";
import { slowProcess, squeezeMemory, stopProcess } from "../../../infra/chaos/process-faults.ts";
import { SimulatedClock, systemClock } from "../../../infra/clock.ts";

const never = new AbortController().signal;

describe.runIf(process.platform === "linux")("process faults", () => {
  let child: ChildProcess;
  let pid: number;

  beforeEach(() => {
    child = spawn("sleep", ["60"]);
    pid = child.pid ?? 0;
  });
  afterEach(() => child.kill("SIGKILL"));

  const state = () => {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
  };
  const until = async (wanted: string) => {
    while (state() !== wanted) await new Promise((resolve) => setTimeout(resolve, 2));
  };

  it("stops a process for so long", async () => {
    const clock = new SimulatedClock();
    const stopped = stopProcess(clock, pid, 500, never);
    await until("T");
    clock.advance(499);
    expect(state()).toBe("T");
    clock.advance(1);
    await stopped;
    await until("S");
    expect(clock.pending).toBe(0);
  });

  it("lets it go on at once when the run is over", async () => {
    const over = new AbortController();
    const stopped = stopProcess(systemClock, pid, 60_000, over.signal);
    await until("T");
    over.abort();
    await stopped;
    await until("S");
    expect(child.exitCode).toBeNull();
  });

  it("slows it down: stopped for most of the time, running at the end", async () => {
    let [stopped, looks] = [0, 0];
    const looking = setInterval(() => {
      looks++;
      if (state() === "T") stopped++;
    }, 3);
    await slowProcess(systemClock, pid, { ms: 600, factor: 5 }, never);
    clearInterval(looking);
    expect(stopped / looks).toBeGreaterThan(0.5);
    expect(stopped / looks).toBeLessThan(0.99);
    await until("S");
  });

  it("takes address space away and gives it back", async () => {
    const limit = () => /^Max address space\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, "utf8"))?.[1];
    const over = new AbortController();
    const squeezed = squeezeMemory(systemClock, pid, { ms: 60_000, headroomBytes: 0 }, over.signal);
    while (limit() === "unlimited") await new Promise((resolve) => setTimeout(resolve, 2));
    expect(Number(limit())).toBeGreaterThan(0);
    over.abort();
    expect(await squeezed).toBe(true);
    expect(limit()).toBe("unlimited");
  });

  it("bears a process that is gone", async () => {
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    await expect(stopProcess(systemClock, pid, 1, never)).resolves.toBeUndefined();
    await expect(squeezeMemory(systemClock, pid, { ms: 1, headroomBytes: 0 }, never)).resolves.toBe(false);
  });
});

describe("pause", () => {
  it("ends with its time or with the signal, whichever comes first", async () => {
    const clock = new SimulatedClock();
    const over = new AbortController();
    const first = pause(clock, 100, over.signal);
    clock.advance(100);
    await first;
    const second = pause(clock, 100, over.signal);
    over.abort();
    await second;
    await pause(clock, 100, over.signal);
    expect(clock.pending).toBe(0);
  });
});
