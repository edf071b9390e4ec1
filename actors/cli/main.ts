#!/usr/bin/env node
import { systemClock } from "../../infra/clock.ts";
import { runCli } from "./cli.ts";
import { COMMANDS } from "./commands.ts";
import { Terminal } from "./terminal.ts";

// As for the actors (supervisor/launch.ts), for commands that load ONNX Runtime here.
process.env["ORT_DISABLE_TELEMETRY"] = "1";

const terminal = new Terminal(process.stdout, process.stderr, systemClock);
const interrupt = new AbortController();
const killCallbacks: (() => void)[] = [];

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    if (!interrupt.signal.aborted) return interrupt.abort(signal);
    for (const callback of killCallbacks) callback();
    terminal.done();
    process.exit(signal === "SIGINT" ? 130 : 143);
  });
}

// A command may wait for what does not keep a process alive, such as the end of a child.
setInterval(() => undefined, 2 ** 30);
const status = await runCli(COMMANDS, process.argv.slice(2), {
  env: process.env,
  terminal,
  stdin: process.stdin,
  interrupted: interrupt.signal,
  onKill: (callback) => void killCallbacks.push(callback),
});
// A pipe is written to later; ending before that would cut the text off.
await terminal.flush();
process.exit(status);
