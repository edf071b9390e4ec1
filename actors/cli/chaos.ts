import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { RallyError } from "../../infra/errors.ts";
import { packageRoot } from "../../infra/own-file.ts";
import { ExistingDeployment } from "../chaos/existing-deployment.ts";
import { FAULT_KINDS, FAULTS, isIn } from "../chaos/faults.ts";
import { OwnDeployment } from "../chaos/own-deployment.ts";
import { reportPage } from "../chaos/report/page.ts";
import { type ScenarioResult, summaryOf } from "../chaos/result.ts";
import { runScenario } from "../chaos/run-scenario.ts";
import type { Scenario } from "../chaos/scenario.ts";
import { readScenarioFile } from "../chaos/scenario-file.ts";
import { checkTargets } from "../chaos/schedule.ts";
import { targetSlots } from "../chaos/target-slots.ts";
import { DEFAULT_TOPOLOGY, type Topology } from "../supervisor/topology.ts";
import type { Command, CommandContext } from "./command.ts";
import { CONNECTION_FLAGS, modelDirOf, natsSettingsOf, TOPOLOGY_FLAGS, topologyOf } from "./deployment-flags.ts";
import { type FlagValues, integerFlag, type ParsedArguments, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { count } from "./serving-topology.ts";

const { store: _store, trace: _trace, ...topologyFlags } = TOPOLOGY_FLAGS;

const flags = {
  seed: integerFlag("N", "decides requests, faults and targets, instead of the scenario's own seed", {
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
  }),
  requests: integerFlag("N", "requests under faults, instead of the scenario's own number", { min: 1, max: 1_000_000 }),
  duration: integerFlag("SECONDS", "load lasts so long, instead of a number of requests", { min: 1, max: 604_800 }),
  report: textFlag("FILE", "write a page about the run, and beside it the same as JSON"),
  list: switchFlag("list scenarios and faults, and end"),
  json: switchFlag("print one JSON object"),
  ...CONNECTION_FLAGS,
  ...topologyFlags,
};

type Values = FlagValues<typeof flags>;

const LIBRARY = path.join(packageRoot, "test", "chaos");
const DEFAULT_SCENARIO = "ci";

export const chaosCommand: Command = {
  name: "chaos",
  summary: "torment a deployment and see whether every promise holds",
  usage: "[SCENARIO…] [flags]",
  description: `Runs each scenario: starts a deployment of its own, sends requests without faults
to know their streams, then again under faults, and compares every token. A
scenario is a YAML file, or a name from the library (--list); without any it is
"${DEFAULT_SCENARIO}". The same seed gives the same requests and the same faults.

With --nats it runs against the deployment that is served there, with the faults
that can be injected from here; those that cannot are counted as skipped.

Status 0: every promise held. 1: one was broken. 2: a mistake in flags or scenario.`,
  examples: [
    ["rally chaos", "the short scenario of the continuous integration"],
    ["rally chaos soak --report soak.html", "a thousand requests, three hundred faults, and a page about them"],
    ["rally chaos expert-kill --replicas 3 --seed 7 --json", "another topology, other random choices"],
    ["rally chaos my.yaml --nats nats://broker:4222 --deployment prod", "against what is there"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parseFlags(flags, args);
  const { values, positionals } = parsed;
  const { terminal } = context;
  if (values.list) {
    for (const line of listing()) terminal.write(`${line}\n`);
    return 0;
  }
  // All are read before any is run: a mistake in the last is known at once.
  const scenarios = (positionals.length === 0 ? [DEFAULT_SCENARIO] : positionals).map((name) =>
    changed(readScenarioFile(fileOf(name)), values),
  );
  if (values.nats === undefined) {
    for (const scenario of scenarios) checkTargets(scenario, targetSlots(topologyFor(scenario, values, parsed.given)));
  }
  const results: ScenarioResult[] = [];
  for (const scenario of scenarios) {
    const result = await runOne(scenario, parsed, context);
    results.push(result);
    terminal.done();
    if (!values.json) for (const line of verdict(result)) terminal.write(`${line}\n`);
  }
  if (values.report !== undefined) await writeReport(values.report, results);
  const summary = summaryOf(results);
  if (values.json) terminal.write(`${JSON.stringify(summary)}\n`);
  return summary.held ? 0 : 1;
}

async function runOne(
  scenario: Scenario,
  { values, given }: ParsedArguments<typeof flags>,
  context: CommandContext,
): Promise<ScenarioResult> {
  const { terminal, interrupted } = context;
  const seed = values.seed ?? scenario.seed;
  const progress = (text: string) => terminal.progress(text);
  const common = { scenario, seed, signal: interrupted, progress };
  // An address in the environment is for ordinary commands: nobody's deployment is tormented by accident.
  const nats = values.nats === undefined ? undefined : natsSettingsOf(values, context.env);
  if (nats !== undefined) {
    const target = await ExistingDeployment.find({
      nats,
      deployment: values.deployment,
      modelDir: modelDirOf(values.model),
      seed,
    });
    return await runScenario({ ...common, target, topology: target.description, moveClock: undefined });
  }
  const topology = topologyFor(scenario, values, given);
  const faults = scenario.faults.flatMap(({ mix }) => mix.map(({ fault }) => fault));
  progress(`${scenario.name}: starting the actors`);
  const target = await OwnDeployment.start(
    {
      topology,
      sharedMemory: scenario.sharedMemory,
      hasProxies: faults.some((fault) => isIn(fault, "network")),
      hasClocks: faults.some(({ kind }) => kind === "clock-jump"),
      seed,
      progress,
    },
    (deployment) => context.onKill(() => deployment.kill()),
  );
  return await runScenario({
    ...common,
    target,
    topology: describe(topology),
    moveClock: (pid, offsetMs) => target.clocks?.move(pid, offsetMs),
  });
}

/** The scenario's, except where a flag says otherwise. */
function topologyFor(scenario: Scenario, values: Values, given: ReadonlySet<string>): Topology {
  const fromFlags = topologyOf(values);
  const { numAttention, numShards, numReplicas, microBatches, wireDtype, provider, turns } = fromFlags;
  return {
    ...DEFAULT_TOPOLOGY,
    ...scenario.topology,
    limits: { ...scenario.topology.limits, ...fromFlags.limits },
    deployment: fromFlags.deployment,
    modelDir: fromFlags.modelDir,
    ...(given.has("attention") && { numAttention }),
    ...(given.has("experts") && { numShards }),
    ...(given.has("replicas") && { numReplicas }),
    ...(given.has("micro-batches") && { microBatches }),
    ...(given.has("wire") && { wireDtype }),
    provider,
    ...(turns !== undefined && { microBatches, turns }),
  };
}

function changed(scenario: Scenario, { requests, duration }: Values): Scenario {
  const { load } = scenario;
  return {
    ...scenario,
    load: {
      ...load,
      ...(requests !== undefined && { requests, durationMs: undefined, distinct: Math.min(requests, load.distinct) }),
      ...(duration !== undefined && { durationMs: duration * 1000 }),
    },
  };
}

function fileOf(name: string): string {
  if (existsSync(name) && /\.ya?ml$/.test(name)) return name;
  const file = path.join(LIBRARY, `${name}.yaml`);
  if (/^[\w-]+$/.test(name) && existsSync(file)) return file;
  const known = libraryNames();
  throw new RallyError(
    "bad-settings",
    `no scenario ${JSON.stringify(name.slice(0, 80))}: neither a YAML file nor one of ${known.join(", ")}`,
    { field: "SCENARIO", found: name.slice(0, 80) },
  );
}

function libraryNames(): string[] {
  if (!existsSync(LIBRARY)) return [];
  return readdirSync(LIBRARY)
    .filter((name) => name.endsWith(".yaml"))
    .map((name) => path.basename(name, ".yaml"))
    .sort();
}

function listing(): string[] {
  const names = libraryNames();
  const width = Math.max(...[...names, ...FAULT_KINDS].map((name) => name.length)) + 2;
  return [
    "Scenarios:",
    ...names.map((name) => `  ${name.padEnd(width)}${readScenarioFile(fileOf(name)).description}`),
    "",
    "Faults:",
    ...FAULT_KINDS.map((kind) => `  ${kind.padEnd(width)}${FAULTS[kind].about}`),
  ];
}

function describe({ numAttention, numShards, numReplicas, microBatches, wireDtype }: Topology): string {
  return [
    count(numAttention, "attention actor"),
    `${count(numShards, "shard")} × ${count(numReplicas, "replica")}`,
    `micro-batches ${microBatches}`,
    `wire ${wireDtype}`,
  ].join(", ");
}

function verdict(result: ScenarioResult): string[] {
  const { scenario, requests, faults, skipped, seed, findings, held } = result;
  const skips = skipped === 0 ? "" : `, ${skipped} could not be injected`;
  const lines = [
    `${held ? "held" : "BROKEN"}  ${scenario}: ${requests} requests, ${count(faults, "fault")}${skips}, seed ${seed}`,
    `        ${result.differing} differing, ${result.lost} lost, ${result.duplicated} duplicated, ${result.unended} unended, ${result.failed} failed, ${result.leaked} leaked`,
    `        ${Math.round(result.chaos.tokensPerSecond)} tokens/s with faults, ${Math.round(result.reference.tokensPerSecond)} without: ratio ${result.throughputRatio}; ${result.normalisedThroughputRatio} of the capacity that was alive`,
  ];
  for (const [kind, { p50, p99 }] of Object.entries(result.recoveryMs)) {
    lines.push(`        ${kind.padEnd(20)} longest gap between tokens: p50 ${p50} ms, p99 ${p99} ms`);
  }
  if (result.stalledMs > 0)
    lines.push(`        this machine stood still for ${result.stalledMs} ms, which are in no gap`);
  for (const { flaw, requestId, text } of findings.slice(0, 10)) {
    lines.push(`        ${flaw}: ${requestId === undefined ? "" : `${requestId}: `}${text}`);
  }
  if (findings.length > 10) lines.push(`        … ${findings.length - 10} more in the report (--report FILE)`);
  return lines;
}

async function writeReport(file: string, results: readonly ScenarioResult[]): Promise<void> {
  const page = /\.html?$/.test(file) ? file : `${file}.html`;
  await writeFile(page, reportPage(results));
  await writeFile(
    page.replace(/\.html?$/, ".json"),
    `${JSON.stringify({ ...summaryOf(results), scenarios: results })}\n`,
  );
}
