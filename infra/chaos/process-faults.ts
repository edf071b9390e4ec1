import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import type { Clock } from "../clock.ts";
import { RallyError } from "../errors.ts";
import { pause } from "./pause.ts";
import { sendSignal } from "./signals.ts";

const run = promisify(execFile);

/** SIGSTOP for `ms`, then SIGCONT; earlier when the signal aborts. */
export async function stopProcess(clock: Clock, pid: number, ms: number, signal: AbortSignal): Promise<void> {
  if (!sendSignal(pid, "SIGSTOP")) return;
  await pause(clock, ms, signal);
  sendSignal(pid, "SIGCONT");
}

/** One turn of stopping and running. Short beside the timeouts of whoever waits for the process. */
const TURN_MS = 50;

/** For `ms`, the process runs one part in `factor` of the time. */
export async function slowProcess(
  clock: Clock,
  pid: number,
  options: { readonly ms: number; readonly factor: number },
  signal: AbortSignal,
): Promise<void> {
  const end = clock.elapsed() + options.ms;
  const runMs = Math.max(1, TURN_MS / options.factor);
  const stopMs = runMs * (options.factor - 1);
  while (clock.elapsed() < end && !signal.aborted) {
    await stopProcess(clock, pid, stopMs, signal);
    await pause(clock, runMs, signal);
  }
}

/** For `ms`, the process gets no address space beyond what it has now and `headroomBytes`. Whether it was there at all. */
export async function squeezeMemory(
  clock: Clock,
  pid: number,
  options: { readonly ms: number; readonly headroomBytes: number },
  signal: AbortSignal,
): Promise<boolean> {
  const size = await addressSpace(pid);
  if (size === undefined) return false;
  await limit(pid, "as", String(size + options.headroomBytes));
  await pause(clock, options.ms, signal);
  await limit(pid, "as", "unlimited");
  return true;
}

/** For `ms`, the process can write to no file beyond its first `bytes`: EFBIG, unless its SIGXFSZ is not blocked. */
export async function limitFileSize(
  clock: Clock,
  pid: number,
  options: { readonly ms: number; readonly bytes: number },
  signal: AbortSignal,
): Promise<void> {
  await limit(pid, "fsize", String(options.bytes));
  await pause(clock, options.ms, signal);
  await limit(pid, "fsize", "unlimited");
}

/** The soft limit only: the hard one could not be raised again without privileges. */
async function limit(pid: number, resource: "as" | "fsize", soft: string): Promise<void> {
  try {
    await run("prlimit", ["--pid", String(pid), `--${resource}=${soft}:`]);
  } catch (cause) {
    // Gone in the meantime: then there is nothing to limit.
    if (!sendSignal(pid, 0)) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RallyError("internal", `prlimit of process ${pid}: ${reason}`, { pid, resource }, { cause });
  }
}

/** Bytes; undefined if the process is gone or the system does not tell. */
async function addressSpace(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kib = /^VmSize:\s+(\d+) kB/m.exec(status)?.[1];
  return kib === undefined ? undefined : Number(kib) * 1024;
}
