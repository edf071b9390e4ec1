import type { FoundRole } from "../protocol/discovery.ts";
import { listActors } from "./actors.ts";
import type { Command, CommandContext } from "./command.ts";
import { CONNECTION_FLAGS, natsSettingsOf } from "./deployment-flags.ts";
import { noArguments, parseFlags, switchFlag } from "./flags.ts";
import { joinedServer } from "./join.ts";

const flags = {
  all: switchFlag("actors of every deployment on that server"),
  ...CONNECTION_FLAGS,
  json: switchFlag(
    "print one JSON object: {actors: [{role, id, deployment, host, pid, version, shard?, epoch?, stats?}]}",
  ),
};

export const psCommand: Command = {
  name: "ps",
  summary: "list the actors of a running deployment, and what they do",
  usage: "[flags]",
  description: `Asks every attention and expert actor on the server, wherever it runs, for its
sums since it started (NATS services API; "nats micro stats rally-expert" shows
them, too).

busy is the share of the time in which it computed since it started; load what
it has in hand now: sequences of an attention actor, waiting batches of an
expert actor; done the tokens it has sampled, or the rows that went through its
experts.

Exit status: 1 if there is no actor.`,
  examples: [
    ["rally ps", "the deployment that runs on this machine"],
    ["rally ps --nats nats://broker:4222 --all --json", "all on a server, for programs"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  noArguments("ps", positionals);
  const nats = joinedServer(values.deployment, natsSettingsOf(values, context.env), context.env);
  const actors = (await listActors(nats, true)).filter(
    ({ deployment }) => values.all || deployment === values.deployment,
  );
  const { terminal } = context;
  if (values.json) terminal.write(`${JSON.stringify({ actors })}\n`);
  else for (const line of tableOf(actors, values.all)) terminal.write(`${line}\n`);
  return actors.length === 0 ? 1 : 0;
}

/** Lines of text, the headings first. */
export function tableOf(actors: readonly FoundRole[], withDeployment: boolean): string[] {
  if (actors.length === 0) return ["no actors"];
  const headings = ["ROLE", "ID", "SHARD", "HOST", "PID", "UP", "BUSY", "LOAD", "DONE", "MEMORY"];
  const rows = [
    withDeployment ? ["DEPLOYMENT", ...headings] : headings,
    ...actors.map((actor) => {
      const cells = cellsOf(actor);
      return withDeployment ? [actor.deployment, ...cells] : cells;
    }),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

function cellsOf({ role, id, shard, epoch, host, pid, stats }: FoundRole): string[] {
  const place = shard === undefined ? "-" : `${shard}@${epoch}`;
  const known = [role, id, place, host, String(pid)];
  if (stats === undefined) return [...known, "?", "?", "?", "?", "?"];
  const busy = stats.elapsedMs > 0 ? stats.busyMs / stats.elapsedMs : 0;
  const [load, done] =
    stats.role === "attention"
      ? [`${stats.activeSequences + stats.waitingSequences} seq`, `${stats.decodeTokens} tokens`]
      : [`${stats.waiting} waiting`, `${stats.rows} rows`];
  return [
    ...known,
    duration(stats.elapsedMs),
    `${Math.round(100 * busy)}%`,
    load,
    done,
    `${Math.round(stats.rssBytes / 2 ** 20)} MiB`,
  ];
}

function duration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}
