import { execFile } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { promisify } from "node:util";
import { RallyError } from "./errors.ts";

const run = promisify(execFile);
/** Of util-linux, and of BusyBox: Node.js itself cannot pin a thread. */
const TASKSET = "taskset";

/** Cores that this process may use, as the kernel numbers them, ascending. Undefined on systems without /proc. */
export function allowedCores(statusFile = "/proc/self/status"): readonly number[] | undefined {
  let text: string;
  try {
    text = readFileSync(statusFile, "utf8");
  } catch {
    return undefined;
  }
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(text)?.[1];
  return list?.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** This thread, as the kernel numbers it. */
export function threadId(): number {
  return Number(/\d+$/.exec(readlinkSync("/proc/thread-self"))?.[0]);
}

/**
 * Lets a thread run on these cores only; those that it starts later inherit that. `all`: with every thread of that process. RallyError
 * `bad-settings` where that cannot be done.
 */
export async function pin(id: number, cores: readonly number[], all: "all" | "one" = "one"): Promise<void> {
  const every = all === "all" ? ["-a"] : [];
  try {
    await run(TASKSET, [...every, "-p", "-c", cores.join(","), String(id)]);
  } catch (cause) {
    const text = cause instanceof Error && "stderr" in cause ? String(cause.stderr).trim() : "";
    const message = `threads cannot be pinned to cores: ${TASKSET} (Debian: util-linux) ${text === "" ? "does not run" : `says "${text}"`}`;
    throw new RallyError("bad-settings", message, { field: "cores", found: cores.join(",") }, { cause });
  }
}
