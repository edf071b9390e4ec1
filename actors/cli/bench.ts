import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpus, totalmem } from "node:os";
import { RallyError } from "../../infra/errors.ts";
import { withProvider } from "../../infra/gpu/provider.ts";
import { withGlibcMemory } from "../../infra/glibc-memory.ts";
import { withMlaRate } from "../../models/planner/mla-rate.ts";
import { loadConfig } from "../../models/load.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { compareRounds, type Comparison } from "./bench/compare.ts";
import type { Command, CommandContext } from "./command.ts";
import { natsSettingsOf, TOPOLOGY_FLAGS, topologyOf, CONNECTION_FLAGS } from "./deployment-flags.ts";
import { badFlag, type FlagValues, integerFlag, noArguments, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { goodputTable, runGoodput } from "./bench/goodput-run.ts";
import { projectAll, projectionTable, readReports } from "./bench/project.ts";
import { STAGE_FLAGS } from "./bench/stage-flags.ts";
import { requireStageDevice, runStage } from "./bench/stage/stage-command.ts";
import { workload } from "./bench/workload.ts";

const { store: _store, trace: _trace, ...topologyFlags } = TOPOLOGY_FLAGS;

const LOAD_FACTORS = [0.5, 1, 2, 4, 8];

const flags = {
  compare: textFlag("WHAT", "what to compare with; monolith is the same engine and graphs in one process", "monolith"),
  concurrency: integerFlag("N", "requests at once", { min: 1, max: 64 }, 32),
  "max-tokens": integerFlag("N", "output tokens per request", { min: 8, max: 900 }, 128),
  rounds: integerFlag(
    "N",
    "measured rounds of each side, in turns; throughput is their median",
    { min: 1, max: 99 },
    5,
  ),
  "monolith-threads": integerFlag("N", "threads inside each of the monolith's graphs", { min: 1, max: 64 }, 2),
  goodput: switchFlag("measure what is still done under 0.5 to 8 times the sustainable load, instead of a comparison"),
  "deadline-ms": integerFlag(
    "N",
    "with --goodput: requests that take longer count for nothing",
    { min: 100, max: 600_000 },
    10_000,
  ),
  seconds: integerFlag("N", "with --goodput: measured time of each load", { min: 1, max: 3_600 }, 20),
  ...STAGE_FLAGS,
  json: switchFlag("print one JSON object"),
  ...CONNECTION_FLAGS,
  ...topologyFlags,
};

export const benchCommand: Command = {
  name: "bench",
  summary: "measure a deployment beside a monolith",
  usage: "[flags]",
  description: `Starts a deployment of its own and, beside it, a monolith: the same engine, graphs
and batching in one process, without NATS. Rounds of --concurrency greedy requests
go to both in turns (deployment, monolith, monolith, deployment, …), after one
round each to warm up.

tokensPerSecond counts while every request of a round is decoding, at the client;
tpotMs is the time per output token after a request's first; ratio is deployment ÷
monolith. Shares are the deployment's during its rounds.

With --goodput it first finds how many requests per second --concurrency at once
get done (the sustainable load), then sends multiples of that, arriving at random,
and counts the output tokens of those that meet their deadline.

With --stage it measures one layer's attention or FFN stage at a model's real
dimensions on this machine's GPU, part by part, beside ONNX Runtime's own operators
and PyTorch's figures. --context, --batch and FILE's contents go round in one table.

With --project it calculates what deployments of whole servers would do, from
stage times in files: xA yF has x attention and y FFN servers of eight GPUs.`,
  examples: [
    ["rally bench", "32 requests at once"],
    ["rally bench --compare monolith --concurrency 8 --json", "for programs"],
    ["rally bench --goodput --max-tokens 32", "the goodput curve"],
    ["rally bench --micro-batches 3 --replicas 2", "another topology"],
    ["rally bench --stage attention --batch 128 --context 4096,8192", "one stage on the GPU"],
    ["rally bench --project stages.json", "tokens/s per GPU of whole deployments"],
  ],
  flags,
  run,
};

const READ_AT_START = ["GLIBC_TUNABLES", "LD_LIBRARY_PATH"];

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  noArguments("bench", positionals);
  if (values.project.length > 0) return printProjections(values, context);
  if (values.compare !== "monolith") throw badFlag("compare", values.compare, "monolith");
  if (values.stage !== undefined) await requireStageDevice(values, context.env);
  // The monolith, or the stage, computes in this process, which must have started as the actors start.
  const provider = values.stage === undefined ? values.provider : "cuda";
  const env = withGlibcMemory(withProvider(provider, context.env));
  if (READ_AT_START.some((name) => env[name] !== context.env[name])) return inNewProcess(env);
  if (values.stage !== undefined) return runStage(values, context);
  const topology = topologyOf(values);
  const [config, tokenizer] = await Promise.all([loadConfig(topology.modelDir), loadTokenizer(topology.modelDir)]);
  const nats = natsSettingsOf(values, context.env);
  const common = {
    topology: { ...topology, deployment: `${topology.deployment}-bench` },
    ...(nats !== undefined && { nats }),
    requests: workload(tokenizer, config.bosTokenId, values.concurrency),
    maxTokens: values["max-tokens"],
    progress: (text: string) => context.terminal.progress(text),
    onKill: (callback: () => void) => context.onKill(callback),
    stopped: () => {
      if (context.interrupted.aborted) throw new RallyError("cancelled", "interrupted");
    },
  };
  if (values.goodput) {
    const { seconds } = values;
    const curve = await runGoodput({ ...common, deadlineMs: values["deadline-ms"], factors: LOAD_FACTORS, seconds });
    context.terminal.done();
    if (values.json) context.terminal.write(`${JSON.stringify({ machine: machine(), seconds, ...curve })}\n`);
    else for (const line of goodputTable(curve)) context.terminal.write(`${line}\n`);
    return 0;
  }
  const comparison = await compareRounds({
    ...common,
    numRounds: values.rounds,
    monolithThreads: values["monolith-threads"],
  });
  context.terminal.done();
  const result = { machine: machine(), concurrency: values.concurrency, rounds: values.rounds, ...comparison };
  if (values.json) context.terminal.write(`${JSON.stringify(result)}\n`);
  else for (const line of table(comparison, values)) context.terminal.write(`${line}\n`);
  return 0;
}

async function printProjections(
  { project, json, "tpot-ms": tpotMs, "mla-tflops": mlaTflops, servers }: FlagValues<typeof flags>,
  { terminal }: CommandContext,
): Promise<number> {
  const reports = await readReports(project);
  const measured = reports.flatMap(({ measurements }) => measurements);
  const torch = measured.filter(({ by }) => by === "pytorch");
  const rows = [...measured, ...(mlaTflops === undefined ? [] : withMlaRate(torch, mlaTflops))];
  const ceilings = reports.find((report) => report.ceilings !== undefined)?.ceilings;
  const projected = projectAll(rows, { tpotMs, mostServers: servers }, ceilings);
  if (projected.length === 0) {
    throw new RallyError(
      "bad-settings",
      "no model's attention, experts, dense and head were all measured in these files",
    );
  }
  if (json) terminal.write(`${JSON.stringify({ tpotMs, projected })}\n`);
  else for (const line of projectionTable(projected, { tpotMs })) terminal.write(`${line}\n`);
  return 0;
}

/** The same command in a process with another environment; a Ctrl-C in the terminal reaches both. */
async function inNewProcess(env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], { env, stdio: "inherit" });
  const [status] = (await once(child, "exit")) as [number | null];
  return status ?? 1;
}

function machine() {
  const [cpu] = cpus();
  return { cpu: cpu?.model ?? "unknown", cores: cpus().length, memoryGiB: Math.round(totalmem() / 2 ** 30) };
}

function table({ afd, monolith, ratio, shares }: Comparison, { concurrency }: FlagValues<typeof flags>): string[] {
  const row = (name: string, { tokensPerSecond, tpotMs, ttftMs }: Comparison["afd"]) =>
    [
      name.padEnd(12),
      tokensPerSecond.toFixed(0),
      ...[tpotMs.p50, tpotMs.p99, ttftMs.p50, ttftMs.p99].map((ms) => ms.toFixed(1)),
    ]
      .map((cell, i) => (i === 0 ? cell : cell.padStart(10)))
      .join("");
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  return [
    `${concurrency} at once`.padEnd(12) +
      ["tokens/s", "TPOT p50", "p99 ms", "TTFT p50", "p99 ms"].map((h) => h.padStart(10)).join(""),
    row("deployment", afd),
    row("monolith", monolith),
    `ratio ${ratio.toFixed(2)}`,
    "",
    `attention busy ${percent(shares.attentionBusy)}, experts busy ${percent(shares.expertBusy)}, bubble ${percent(shares.bubble)}, state machines ${percent(shares.machines)}`,
    `a hop: ${Math.round(shares.bytesPerHop)} bytes, ${shares.wireMsPerHop.toFixed(2)} ms on the wire; ${shares.batchesPerRun.toFixed(2)} batches per run, ${shares.microBatches} micro-batches`,
    `memory: ${Object.entries(shares.memoryMiB)
      .map(([id, mib]) => `${id} ${mib} MiB`)
      .join(", ")}`,
  ];
}
