import path from "node:path";
import type { RallyError } from "../../infra/errors.ts";
import { Supervisor, type SupervisorEvent } from "../supervisor/supervisor.ts";
import { writeTraceFile } from "../supervisor/trace-file.ts";
import type { Command, CommandContext } from "./command.ts";
import { checkStore, CONNECTION_FLAGS, natsSettingsOf, TOPOLOGY_FLAGS, topologyOf } from "./deployment-flags.ts";
import { claimRecord, deploymentFolder, removeRecord, writeRecord } from "./deployment-record.ts";
import { noArguments, parseFlags, switchFlag } from "./flags.ts";
import { describeTopology, servingTopology } from "./serving-topology.ts";
import { withSource } from "./serving.ts";

const flags = {
  ...TOPOLOGY_FLAGS,
  ...CONNECTION_FLAGS,
  json: switchFlag("print events as JSON objects, one a line: ready, warning, stopped"),
};

export const upCommand: Command = {
  name: "up",
  summary: "start a deployment and keep it running",
  usage: "[flags]",
  description: `Starts attention and expert actors, and a nats-server unless --nats or $NATS_URL
names one, restarts what dies, and stays until Ctrl-C (or SIGTERM), which lets
the requests in hand finish first; a second one ends everything at once.

Requests and tokens are kept in $XDG_DATA_HOME/rally/<deployment>/store
(~/.local/share/rally/… if unset) or at --store, and survive a restart. Other
commands on this machine find the deployment by its name.`,
  examples: [
    ["rally up", "one attention actor, the experts in two shards"],
    ["rally up --attention 2 --experts 4 --replicas 2", "ten actors"],
    ["rally up --nats nats://broker:4222 --deployment prod", "over an existing server"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  noArguments("up", positionals);
  const { terminal, interrupted } = context;
  const nats = natsSettingsOf(values, context.env);
  checkStore(values.store, nats);
  const topology = topologyOf(values);
  if (values.trace !== undefined) await writeTraceFile(values.trace, []);
  const folder = deploymentFolder(context.env, topology.deployment);
  const storeDir = values.store === undefined ? path.join(folder, "store") : path.resolve(values.store);
  claimRecord(folder);
  try {
    const tell = (event: object, line: string) =>
      values.json ? terminal.write(`${JSON.stringify(event)}\n`) : terminal.say(line);
    const failed = new AbortController();
    let isUp = false;
    const onEvent = (event: SupervisorEvent) => {
      switch (event.kind) {
        case "progress":
          return terminal.progress(withSource(event.source, event.text));
        case "warning":
          return tell(
            { event: "warning", source: event.source, text: event.text },
            withSource(event.source, event.text),
          );
        case "ready":
          return isUp
            ? tell({ event: "restarted", source: event.source }, `${event.source} is ready again`)
            : undefined;
        case "failed":
          return failed.abort(event.error);
      }
    };
    const supervisor = new Supervisor({
      topology,
      ...(nats === undefined ? { storeDir } : { nats }),
      trace: values.trace !== undefined,
      onEvent,
    });
    context.onKill(() => supervisor.kill());
    const stop = () => void supervisor.stop({ drain: true });
    interrupted.addEventListener("abort", stop, { once: true });
    terminal.progress("starting the actors");
    await supervisor.start();
    interrupted.removeEventListener("abort", stop);
    terminal.done();
    isUp = true;
    const serving = servingTopology(topology, supervisor.nats.description, false);
    writeRecord(folder, { ready: { nats: supervisor.nats.settings, topology: serving } });
    const { deployment } = topology;
    const named = deployment === flags.deployment.fallback ? "" : ` --deployment ${deployment}`;
    tell(
      { event: "ready", pid: process.pid, ...(nats === undefined && { store: storeDir }), topology: serving },
      `${describeTopology(serving)}\nup; Ctrl-C ends it. In another terminal: rally run "Once upon a time"${named}`,
    );
    await aborted(interrupted, failed.signal);
    removeRecord(folder);
    terminal.progress("letting the requests in hand finish; Ctrl-C again ends them");
    if (values.trace !== undefined) await writeTraceFile(values.trace, await supervisor.trace());
    await supervisor.stop({ drain: !failed.signal.aborted });
    terminal.done();
    if (failed.signal.aborted) throw failed.signal.reason as RallyError;
    tell({ event: "stopped" }, "stopped");
    return 0;
  } finally {
    removeRecord(folder);
  }
}

function aborted(...signals: readonly AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of signals) {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    }
  });
}
