import { readFile } from "node:fs/promises";
import { RallyError } from "../../../infra/errors.ts";
import {
  colocatedTimes,
  type Measurement,
  parseReport,
  PLANNED_MODELS,
  type Report,
  type Selection,
  stageTimes,
} from "../../../models/planner/measurements.ts";
import {
  bestBatch,
  bestDeployment,
  type ColocatedProjection,
  type Deployment,
  bestColocated,
  type Load,
  type Projection,
} from "../../../models/planner/projection.ts";
import type { Ceilings } from "../../../models/planner/floors.ts";
import { DEEPSEEK_V3, STEP3 } from "../../../models/planner/planned-model.ts";
import { atSameShare } from "../../../models/planner/same-share.ts";
import type { StageTimes } from "../../../models/planner/stage-times.ts";

export interface ProjectOptions {
  readonly files: readonly string[];
  readonly tpotMs: number;
  readonly mostServers: number;
}

/** One model by one maker at one context length. */
export interface Projected extends Selection {
  /** The paper's deployment for its context lengths, where one is named; undefined if nothing fits under the time per token. */
  readonly paper: Projection | undefined;
  readonly best: Projection | undefined;
  /** DeepSeek's own way: 128 GPUs that do both, two micro-batches. */
  readonly colocated: ColocatedProjection | undefined;
}

const MICRO_BATCHES = 3;

/** The deployments of the Step-3 report, by context length. */
const PAPER: Readonly<Record<number, Deployment>> = {
  4096: { attentionServers: 2, ffnServers: 2 },
  8192: { attentionServers: 4, ffnServers: 2 },
  32768: { attentionServers: 16, ffnServers: 2 },
};

export async function readReports(files: readonly string[]): Promise<Report[]> {
  return Promise.all(
    files.map(async (file) => {
      const text = await readFile(file, "utf8").catch((cause: unknown) => {
        throw new RallyError("bad-settings", `${file}: ${(cause as Error).message}`, { file }, { cause });
      });
      return parseReport(text, file);
    }),
  );
}

/**
 * Every model, maker, kind of KV and context length of which all stages were measured. With ceilings also DeepSeek-V3 by kernels as
 * good as those that Step-3's times are by: at the same share of its floors.
 */
export function projectAll(
  rows: readonly Measurement[],
  options: Omit<ProjectOptions, "files">,
  ceilings: Ceilings | undefined,
): Projected[] {
  return selections(rows).flatMap((selection) => {
    const times = stageTimes(rows, selection);
    if (!isWhole(times)) return [];
    const own = projectOne(selection, times, colocatedTimes(rows, selection), options);
    if (selection.model !== "step3" || ceilings === undefined) return [own];
    const share = (numWeights: number) => atSameShare(STEP3, times, DEEPSEEK_V3, numWeights, selection, ceilings);
    // Two routed experts with four rows per sequence and the shared one with one: three rows per sequence on average.
    const both = share(3);
    const bySequence = { ...both, experts: both.experts.map(({ rows: each, us }) => ({ rows: each / 3, us })) };
    const as: Selection = { ...selection, model: "dsv3", by: `as ${selection.by}` };
    return [own, projectOne(as, share(DEEPSEEK_V3.numExperts / 16 + 1), bySequence, options)];
  });
}

function projectOne(
  selection: Selection,
  times: StageTimes,
  colocated: StageTimes,
  { tpotMs, mostServers }: Omit<ProjectOptions, "files">,
): Projected {
  const model = PLANNED_MODELS[selection.model];
  const load: Load = { kv: selection.kv, contextLength: selection.context, microBatches: MICRO_BATCHES };
  const paper = PAPER[selection.context];
  return {
    ...selection,
    paper: paper && bestBatch(model, times, paper, load, tpotMs),
    best: bestDeployment(model, times, load, tpotMs, mostServers),
    colocated: isWhole(colocated)
      ? bestColocated(model, colocated, { ...load, microBatches: 2 }, colocated.weightsPerPoint, tpotMs)
      : undefined,
  };
}

function selections(rows: readonly Measurement[]): Selection[] {
  const found = new Map<string, Selection>();
  for (const { model, by, kv, context } of rows) {
    if (kv === undefined || context === undefined) continue;
    found.set([model, by, kv, context].join(" "), { model, by, kv, context });
  }
  const order = ({ context, kv, model, by }: Selection) => [String(context).padStart(9), kv, model, by].join(" ");
  return [...found.values()].toSorted((a, b) => (order(a) < order(b) ? -1 : 1));
}

function isWhole({ attention, experts, dense, head }: StageTimes): boolean {
  return [attention, experts, dense, head].every((points) => points.length > 0);
}

const COLUMNS = [16, 13, 8, 7, 9, 9, 9, 11, 9, 10];

export function projectionTable(projected: readonly Projected[], { tpotMs }: { readonly tpotMs: number }): string[] {
  const row = (cells: readonly string[]) =>
    cells.map((cell, i) => (i < 2 ? cell.padEnd(COLUMNS[i] ?? 0) : cell.padStart(COLUMNS[i] ?? 0))).join("");
  const lines = projected.flatMap(({ model, by, kv, context, paper, best, colocated: both }) => {
    const name = `${model} ${kv} ${context / 1024}K`;
    const shown = [paper, best].filter((each) => each !== undefined);
    const isSame = paper !== undefined && best !== undefined && deploymentOf(paper) === deploymentOf(best);
    const rows = (isSame ? [best] : shown).map((each, i) => row([i === 0 ? name : "", by, ...cellsOf(each)]));
    if (rows.length === 0) rows.push(row([name, by, "none"]));
    if (both !== undefined) {
      const { batch, tpotMs: took, tokensPerSecondPerGpu: rate, bytes } = both;
      const cells = ["EP128", String(batch), "", "", took.toFixed(1), rate.toFixed(0), gigabytes(bytes), ""];
      rows.push(row(["", by, ...cells]));
    }
    return rows;
  });
  return [
    row(["", "by", "", "batch", "attn µs", "FFN µs", "TPOT ms", "tok/s/GPU", "GB A/F", "net Gb/s"]),
    ...lines,
    "",
    `PROJECTED from measured stage times, ${MICRO_BATCHES} micro-batches, at most ${tpotMs} ms per token. ASSUMED, not measured: transfers`,
    "cost nothing, which takes a network of 'net' per GPU in each direction; routing is even; sampling and scheduling on the CPU keep up.",
    "dsv3 'as' a maker: DeepSeek-V3's floors at the share of the floor that the maker reaches for Step-3. EP128: attention and",
    "experts on every GPU, two micro-batches, routing even, as DeepSeek profiled it. 'MLA N': its attention at N TFLOP/s, given, not measured.",
    "batch: sequences of a micro-batch on each attention GPU. A ~ marks an FFN time scaled from another number of experts per GPU.",
  ];
}

function cellsOf(projection: Projection): string[] {
  const { batch, attentionUs, ffnUs, isFfnMeasured, tpotMs, tokensPerSecondPerGpu, networkGbps } = projection;
  return [
    deploymentOf(projection),
    String(batch),
    attentionUs.toFixed(0),
    `${isFfnMeasured ? "" : "~"}${ffnUs.toFixed(0)}`,
    tpotMs.toFixed(1),
    tokensPerSecondPerGpu.toFixed(0),
    `${gigabytes(projection.attentionBytes)}/${gigabytes(projection.ffnBytes)}`,
    networkGbps.toFixed(0),
  ];
}

function deploymentOf({ attentionServers, ffnServers }: Deployment): string {
  return `${attentionServers}A${ffnServers}F`;
}

function gigabytes(bytes: number): string {
  return (bytes / 1e9).toFixed(0);
}
