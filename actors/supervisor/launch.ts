import { fork } from "node:child_process";
import { finished } from "node:stream/promises";
import { withProvider } from "../../infra/gpu/provider.ts";
import { withGlibcMemory } from "../../infra/glibc-memory.ts";
import { compiledFile } from "../../infra/own-file.ts";
import type { RoleCommand, RoleReport, RoleSettings } from "../protocol/role.ts";

/** A started role, as its supervisor holds it. Nothing here fails once the process is gone. */
export interface RoleProcess {
  readonly pid: number | undefined;
  send(command: RoleCommand): void;
  /** Closes the channel, which makes the role end at once, of itself. */
  disconnect(): void;
  kill(signal: "SIGTERM" | "SIGKILL"): void;
}

export interface RoleHandlers {
  report(report: RoleReport): void;
  /** Once, when the process is gone: how it ended, and the last lines it printed. */
  exit(how: string, lastLines: string): void;
}

export type Launch = (settings: RoleSettings, handlers: RoleHandlers) => RoleProcess;

const LAST_CHARACTERS = 2_000;

/** Starts roles as child processes; `fileOf` names the script of a role, `env` adds to their environment. */
export function forkLauncher(
  fileOf = (role: RoleSettings["role"]) => compiledFile(`actors/${role}/main`),
  env: NodeJS.ProcessEnv = {},
): Launch {
  return (settings, handlers) => {
    const child = fork(fileOf(settings.role), {
      // ONNX Runtime would otherwise report to its makers, and leave files in the temporary folder. A thread cannot set this.
      env: {
        ...withGlibcMemory(withProvider(settings.provider, { ...process.env, ...env })),
        ORT_DISABLE_TELEMETRY: "1",
        RALLY_ROLE: JSON.stringify(settings),
      },
      // Whatever flags this process has (an inspector's port) are not the children's.
      execArgv: [],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    let lastLines = "";
    const keep = (text: string) => (lastLines = (lastLines + text).slice(-LAST_CHARACTERS));
    const printed = [child.stdout, child.stderr].map(async (stream) => {
      stream?.setEncoding("utf8").on("data", keep);
      if (stream !== null) await finished(stream);
    });
    let gone = false;
    const exit = async (how: string) => {
      if (gone) return;
      gone = true;
      await Promise.allSettled(printed);
      handlers.exit(how, lastLines.trim());
    };
    child.on("message", (report) => handlers.report(report as RoleReport));
    child.on("error", (error) => {
      // Also emitted when a message could not be sent, which is no end.
      if (child.pid === undefined) void exit(`could not be started: ${error.message}`);
    });
    // Not "close", which never comes once `disconnect` was called on this side.
    child.on(
      "exit",
      (status, signal) => void exit(signal === null ? `ended with status ${status}` : `ended by ${signal}`),
    );
    return {
      pid: child.pid,
      send: (command) => void (child.connected && child.send(command, () => undefined)),
      disconnect: () => void (child.connected && child.disconnect()),
      kill: (signal) => void child.kill(signal),
    };
  };
}
