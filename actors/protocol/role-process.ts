import { pin } from "../../infra/cores.ts";
import { RallyError } from "../../infra/errors.ts";
import type { RoleCommand, RoleReport, RoleSettings, RoleStats, TraceEvent } from "./role.ts";

/** What a role offers its supervisor once it runs. */
export interface RunningRole {
  /** Takes nothing new, finishes what is held. */
  drain(): Promise<void>;
  stats(): Promise<RoleStats>;
  trace(): Promise<readonly TraceEvent[]>;
}

/** The child's end of the supervisor's IPC channel. */
export interface RoleProcess {
  report(report: RoleReport): void;
  /** Something this process cannot go on without is broken: says so and ends with status 1, to be started anew. */
  fail(thrown: unknown): void;
  /** Nobody needs this role any more: drains and ends, not to be started again. */
  retire(why: string): void;
}

/** A drain that takes longer than this has lost something; the supervisor would end the process anyway. */
const EXIT_AFTER_DRAIN_MS = 500;

/**
 * Runs a role until it is drained: reads its settings from RALLY_ROLE, starts it, answers commands. SIGINT and SIGTERM drain;
 * a closed channel means that the supervisor is gone, and the process ends at once.
 */
export async function runRole<S extends RoleSettings>(
  role: S["role"],
  start: (settings: S, process: RoleProcess) => Promise<RunningRole>,
): Promise<void> {
  const report = (message: RoleReport) => void (process.connected && process.send?.(message));
  let running: RunningRole | undefined;
  let draining = false;
  const fail = (thrown: unknown) => {
    report({ kind: "failed", error: RallyError.from(thrown).toWire() });
    // Lets the report out first.
    setTimeout(() => process.exit(1), 50);
  };
  const drain = () => {
    if (draining) return;
    draining = true;
    if (running === undefined) process.exit(0);
    running.drain().then(() => {
      setTimeout(() => process.exit(0), EXIT_AFTER_DRAIN_MS).unref();
      // Once what was reported has gone out, the channel closes and the process ends.
      if (process.connected) process.disconnect();
    }, fail);
  };
  const retire = (why: string) => {
    report({ kind: "retired", why });
    drain();
  };
  const answer = async (command: RoleCommand) => {
    switch (command.kind) {
      case "drain":
        return drain();
      case "stats":
        if (running !== undefined) report({ kind: "stats", stats: await running.stats() });
        return;
      case "trace":
        report({ kind: "trace", events: running === undefined ? [] : await running.trace() });
    }
  };
  process.on("message", (command: RoleCommand) => void answer(command).catch(fail));
  process.on("disconnect", () => process.exit(0));
  // Closed before anyone could listen.
  if (!process.connected) process.exit(0);
  process.on("SIGTERM", drain);
  // Ctrl-C in a terminal reaches the whole process group; the supervisor decides when its children drain.
  process.on("SIGINT", () => undefined);
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  try {
    const settings = readSettings<S>(role);
    // Before there are other threads, which inherit it.
    if (settings.pinned !== undefined) await pin(process.pid, settings.pinned.control);
    running = await start(settings, { report, fail, retire });
    report({ kind: "ready" });
  } catch (thrown) {
    fail(thrown);
  }
}

/** Trusts the supervisor, which is the same release: only checks that the settings are for this role at all. */
function readSettings<S extends RoleSettings>(role: S["role"]): S {
  const text = process.env["RALLY_ROLE"];
  if (text === undefined)
    throw new RallyError("bad-settings", "RALLY_ROLE is not set; roles are started by the supervisor");
  let settings: S;
  try {
    settings = JSON.parse(text) as S;
  } catch (cause) {
    throw new RallyError("bad-settings", "RALLY_ROLE is not JSON", { field: "RALLY_ROLE" }, { cause });
  }
  if (settings.role !== role) {
    throw new RallyError("bad-settings", `RALLY_ROLE is for ${settings.role}, this is ${role}`, {
      field: "RALLY_ROLE.role",
    });
  }
  return settings;
}
