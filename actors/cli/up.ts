import path from "node:path";
import type { Command, CommandContext } from "./command.ts";
import { checkStore, CONNECTION_FLAGS, natsSettingsOf, TOPOLOGY_FLAGS, topologyOf } from "./deployment-flags.ts";
import { claimRecord, deploymentFolder, removeRecord, writeRecord } from "./deployment-record.ts";
import { noArguments, parseFlags, switchFlag } from "./flags.ts";
import { describeTopology, servingTopology } from "./serving-topology.ts";
import { stay } from "./stay.ts";

const flags = {
  ...TOPOLOGY_FLAGS,
  ...CONNECTION_FLAGS,
  json: switchFlag("print events as JSON objects, one a line: ready, restarted, warning, stopped"),
};

export const upCommand: Command = {
  name: "up",
  summary: "start a deployment and keep it running",
  usage: "[flags]",
  description: `Starts attention and expert actors, and a nats-server unless --nats or $NATS_URL
names one, restarts what dies, and stays until Ctrl-C (or SIGTERM), which lets
the requests in hand finish first; a second one ends everything at once.

Requests and tokens are kept in $XDG_DATA_HOME/rally/<deployment>/store
(~/.local/share/rally/… if unset) or at --store, and survive a restart: what was
accepted before goes on. Other commands on this machine find the deployment by
its name.

Others may add actors with "rally join", here or on other hosts. The deployment
goes on when this supervisor leaves; a nats-server that it has started itself
then stays, without actors, until those who joined have left it, too. For
several hosts run a NATS server apart and name it with --nats.

A deployment that was moved to another number of shards ("rally place") keeps
that number unless --experts names another.`,
  examples: [
    ["rally up", "one attention actor, the experts in two shards"],
    ["rally up --attention 2 --experts 4 --replicas 2", "ten actors"],
    ["rally up --nats nats://broker:4222 --deployment prod", "over an existing server"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals, given } = parseFlags(flags, args);
  noArguments("up", positionals);
  const nats = natsSettingsOf(values, context.env);
  checkStore(values.store, nats);
  const topology = topologyOf(values);
  const { deployment } = topology;
  const folder = deploymentFolder(context.env, deployment);
  const storeDir = values.store === undefined ? path.join(folder, "store") : path.resolve(values.store);
  claimRecord(folder);
  try {
    return await stay(
      {
        supervise: {
          topology,
          placement: given.has("experts") ? "make" : "adopt",
          ...(nats === undefined ? { storeDir } : { nats }),
        },
        traceFile: values.trace,
        json: values.json,
        ready(supervisor) {
          const numShards = supervisor.placement.shards.length;
          const serving = servingTopology({ ...topology, numShards }, supervisor.nats.description, false);
          writeRecord(folder, { ready: { nats: supervisor.nats.settings, topology: serving } });
          const named = deployment === flags.deployment.fallback ? "" : ` --deployment ${deployment}`;
          return {
            event: {
              event: "ready",
              pid: process.pid,
              ...(nats === undefined && { store: storeDir }),
              topology: serving,
            },
            line: `${describeTopology(serving)}\nup; Ctrl-C ends it. In another terminal: rally run "Once upon a time"${named}`,
          };
        },
        // A server of our own may stay a while for those who joined; they still find it by the record.
        leaving: () => (nats === undefined ? undefined : removeRecord(folder)),
      },
      context,
    );
  } finally {
    removeRecord(folder);
  }
}
