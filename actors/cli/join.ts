import { RallyError } from "../../infra/errors.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { TOPOLOGY_LIMITS } from "../supervisor/topology.ts";
import type { Command, CommandContext } from "./command.ts";
import { CONNECTION_FLAGS, LIMIT_FLAGS, natsSettingsOf, TOPOLOGY_FLAGS, topologyOf } from "./deployment-flags.ts";
import { deploymentFolder, readRecord } from "./deployment-record.ts";
import { integerFlag, integersFlag, noArguments, parseFlags, switchFlag } from "./flags.ts";
import { count, describeJoined } from "./serving-topology.ts";
import { stay } from "./stay.ts";

const flags = {
  attention: integerFlag("N", "attention actors to add", { min: 0, max: TOPOLOGY_LIMITS.numAttention }, 0),
  experts: integersFlag("SHARD,…", "add expert actors for these shards, numbered from 0", {
    min: 0,
    max: TOPOLOGY_LIMITS.numShards - 1,
  }),
  replicas: integerFlag(
    "N",
    "expert actors per shard to add: for all shards, those of later placements too, unless --experts names some",
    { min: 1, max: TOPOLOGY_LIMITS.numReplicas },
  ),
  model: TOPOLOGY_FLAGS.model,
  "micro-batches": TOPOLOGY_FLAGS["micro-batches"],
  wire: TOPOLOGY_FLAGS.wire,
  turns: TOPOLOGY_FLAGS.turns,
  provider: TOPOLOGY_FLAGS.provider,
  ...LIMIT_FLAGS,
  trace: TOPOLOGY_FLAGS.trace,
  ...CONNECTION_FLAGS,
  json: switchFlag("print events as JSON objects, one a line: ready, restarted, warning, stopped"),
};

export const joinCommand: Command = {
  name: "join",
  summary: "add actors to a running deployment",
  usage: "[--attention N] [--experts SHARD,…] [--replicas N] [flags]",
  description: `Starts actors for a deployment that runs already, restarts what dies, and stays
until Ctrl-C (or SIGTERM): then requests in hand finish, or go on elsewhere, and
nothing is lost. The model must be the deployment's own, bit for bit.

The server is the one at --nats or $NATS_URL, else that of "rally up" on this
machine.`,
  examples: [
    ["rally join --attention 1", "one more attention actor on this machine"],
    ["rally join --replicas 1 --nats nats://broker:4222", "one more expert actor for every shard, from another host"],
    ["rally join --experts 0,1 --replicas 2", "two more for each of two shards"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals, given } = parseFlags(flags, args);
  noArguments("join", positionals);
  const { deployment, attention, experts, replicas } = values;
  if (attention === 0 && experts.length === 0 && replicas === undefined) {
    throw new RallyError("bad-settings", "say what to add: --attention N, --experts SHARD,… or --replicas N");
  }
  const nats = joinedServer(deployment, natsSettingsOf(values, context.env), context.env);
  const topology = topologyOf({ ...values, experts: 1, replicas: replicas ?? 1, "shared-experts": undefined });
  // Without a word of experts there are to be none.
  const hostsAll = experts.length === 0 && given.has("replicas");
  return await stay(
    {
      supervise: { topology, nats, placement: "join", ...(!hostsAll && { shards: experts }) },
      traceFile: values.trace,
      json: values.json,
      ready(supervisor) {
        const { epoch, shards } = supervisor.placement;
        const numExperts = (hostsAll ? shards.length : experts.length) * topology.numReplicas;
        const joined = { deployment, epoch, shards: hostsAll ? shards.map((_, shard) => shard) : experts };
        return {
          event: { event: "ready", pid: process.pid, ...joined, attention, nats: supervisor.nats.description },
          line: `${describeJoined(deployment, supervisor.nats.description)} with ${count(attention, "attention actor")} and ${count(numExperts, "expert actor")}; Ctrl-C takes them away again`,
        };
      },
      leaving: () => undefined,
    },
    context,
  );
}

/** The server to find a running deployment on. RallyError `unknown-deployment` if nothing tells. */
export function joinedServer(
  deployment: string,
  given: NatsSettings | undefined,
  env: NodeJS.ProcessEnv,
): NatsSettings {
  const found = given ?? readRecord(deploymentFolder(env, deployment))?.ready?.nats;
  if (found !== undefined) return found;
  throw new RallyError(
    "unknown-deployment",
    `deployment ${deployment} does not run on this machine: name its server with --nats URL or $NATS_URL`,
    { field: "--nats", found: deployment },
  );
}
