import { readFileSync, readlinkSync } from "node:fs";
import os from "node:os";

/** One process for all times: pids are used again, and mean another process on another host, or in another container. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Boot and start time where the system tells (Linux); empty elsewhere. */
  readonly startedAs: string;
  readonly host: string;
  /** Where its pid is one; empty where the system does not tell. */
  readonly namespace: string;
}

export function ownIdentity(): ProcessIdentity {
  return { pid: process.pid, startedAs: startOf(process.pid), host: os.hostname(), namespace: ownNamespace() };
}

/** Whether the process is there. Meant for processes of this host and namespace. */
export function isRunning({ pid, startedAs }: Pick<ProcessIdentity, "pid" | "startedAs">): boolean {
  try {
    process.kill(pid, 0);
  } catch (thrown) {
    // It is there, but somebody else's.
    if (!(thrown instanceof Error && "code" in thrown && thrown.code === "EPERM")) return false;
  }
  return startOf(pid) === startedAs;
}

/** Whether the process is certainly gone: of one that cannot be looked at from here nobody knows. */
export function isGone(identity: ProcessIdentity): boolean {
  if (identity.host !== os.hostname()) return false;
  const hasRebooted = bootOf(identity.startedAs) !== bootOf(startOf(process.pid));
  return hasRebooted || (identity.namespace === ownNamespace() && !isRunning(identity));
}

function startOf(pid: number): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; the start time is the 20th field after it.
    return `${boot} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}`;
  } catch {
    return "";
  }
}

function bootOf(startedAs: string): string | undefined {
  return startedAs.split(" ")[0];
}

function ownNamespace(): string {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return "";
  }
}
