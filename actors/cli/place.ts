import { systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { movePlacement } from "../supervisor/move-placement.ts";
import { TOPOLOGY_LIMITS } from "../supervisor/topology.ts";
import type { Command, CommandContext } from "./command.ts";
import { CONNECTION_FLAGS, natsSettingsOf } from "./deployment-flags.ts";
import { integerFlag, noArguments, numberFlag, parseFlags, switchFlag } from "./flags.ts";
import { joinedServer } from "./join.ts";
import { splitFlag } from "./split.ts";
import { count } from "./serving-topology.ts";

const flags = {
  experts: integerFlag("N", "shards that the experts are to be in, as many in each as can be", {
    min: 1,
    max: TOPOLOGY_LIMITS.numShards,
  }),
  split: splitFlag("which experts in which shard, e.g. 0-3/4,5/6,7: three shards, the first with half of eight"),
  timeout: numberFlag(
    "SECONDS",
    "give up when the new expert actors are not ready by then",
    { min: 1, max: 3600 },
    120,
  ),
  ...CONNECTION_FLAGS,
  json: switchFlag("print one JSON object: {deployment, epoch, shards}"),
};

export const placeCommand: Command = {
  name: "place",
  summary: "move a running deployment's experts to other shards",
  usage: "--experts N|--split EXPERTS/… [flags]",
  description: `Supervisors that host all shards ("rally up", "rally join --replicas") start
expert actors for the new shards. When every shard has one, the new placement
becomes the current one: each attention actor goes over to it with its next
token, and the old expert actors leave when nobody uses them any more. No request
stops or fails.

A layer's outputs are summed shard by shard, so another number of shards may
change a sum in its last bits. Tokens stay the same unless two of them are that
close.`,
  examples: [
    ["rally place --experts 4", "four shards"],
    ["rally place --split 0-5/6/7", "three shards, the last two with one expert each"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  noArguments("place", positionals);
  const { deployment, experts, split } = values;
  if (experts !== undefined && split !== undefined) {
    throw new RallyError("bad-settings", "--experts and --split say two things: give one of them", {
      field: "--split",
    });
  }
  const wanted = split ?? experts;
  if (wanted === undefined) {
    throw new RallyError("bad-settings", "--experts is missing: the number of shards", { field: "--experts" });
  }
  const { terminal, interrupted } = context;
  const nats = joinedServer(deployment, natsSettingsOf(values, context.env), context.env);
  const connection = await connectNats(nats, { name: "rally-place" });
  try {
    const { epoch, shards } = await movePlacement({
      ...connection,
      clock: systemClock,
      deployment,
      wanted,
      timeoutMs: values.timeout * 1000,
      interrupted,
      progress: (text) => terminal.progress(text),
    });
    terminal.done();
    if (values.json) terminal.write(`${JSON.stringify({ deployment, epoch, shards })}\n`);
    else terminal.say(`deployment ${deployment} now has ${count(shards.length, "shard")} (placement ${epoch})`);
    return 0;
  } finally {
    await connection.close();
  }
}
