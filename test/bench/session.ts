/**
 * A run through our own addon beside one through onnxruntime-node, in one process and in turns: a graph so small that all of it is
 * the way there and back, and the attention stage of the bundled model. Compiled, after `rally gpu setup`:
 * `node <dist>/test/bench/session.js [--rounds N]`.
 */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { openNativeSession } from "../../infra/native/native-session.ts";
import { openOrtSession } from "../../infra/ort-session.ts";
import { packageRoot } from "../../infra/own-file.ts";
import type { OpenSession } from "../../infra/session.ts";
import { OnnxGraph } from "../../models/graph/onnx.ts";
import { loadConfig, openAttentionStages } from "../../models/load.ts";
import { Step3AttentionStages } from "../../models/step3/attention-stages.ts";

const SIDES = { addon: openNativeSession, "onnxruntime-node": openOrtSession } as const;
const CONTEXT = 200;

type Once = () => Promise<void> | void;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { rounds: { type: "string", default: "41" } } });
  const numRounds = Number(values.rounds);
  const dir = mkdtempSync(path.join(tmpdir(), "rally-bench-"));
  try {
    await compare("small graph, one run", numRounds, 2000, (open) => smallRun(dir, open));
    const modelDir = path.join(packageRoot, "models", "step3-tiny");
    for (const numThreads of [1, 2]) {
      for (const numSequences of [1, 8, 32]) {
        const name = `attention of one layer, ${numSequences} sequences, ${numThreads} threads`;
        const numRuns = Math.ceil(80 / numSequences);
        await compare(name, numRounds, numRuns, (open) => attention(modelDir, dir, open, numSequences, numThreads));
      }
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function smallRun(dir: string, open: OpenSession): Once {
  const graph = new OnnxGraph("add");
  graph.input("x", "f32", ["rows", 2]);
  graph.node("Add", ["x", "x"], ["y"]);
  graph.output("y", "f32", ["rows", 2]);
  const file = path.join(dir, "add.onnx");
  writeFileSync(file, graph.finish());
  const session = open(file, { numThreads: 1 });
  const [x, y] = [session.tensor(new Float32Array(2), [1, 2]), session.tensor(new Float32Array(2), [1, 2])];
  const [feeds, fetches] = [{ x }, { y }];
  return () => session.run(feeds, fetches);
}

/** One layer's stage of one decode step, the layers in turns. */
async function attention(
  modelDir: string,
  dir: string,
  openSession: OpenSession,
  numSequences: number,
  numThreads: number,
): Promise<Once> {
  const config = await loadConfig(modelDir);
  const cacheDir = path.join(dir, "cache");
  await (await openAttentionStages(modelDir, { numThreads, cacheDir })).release();
  const [graphs = ""] = readdirSync(path.join(cacheDir, "graphs"));
  const stages = new Step3AttentionStages({
    config,
    graphDir: path.join(cacheDir, "graphs", graphs),
    embedding: Float32Array.from({ length: config.vocabSize * config.hiddenSize }, (_, i) => Math.sin(i)),
    openSession,
    numThreads,
    numThreadsAlone: numThreads,
  });
  const { numLayers } = config;
  const kv = stages.createCache(numSequences);
  kv.reserve(CONTEXT + 1, numSequences);
  const pasts = Array.from({ length: numSequences }, () => CONTEXT);
  const pass = stages.plan({ kv, firstSlot: 0, numSequences, chunk: 1, pasts, tokenIds: pasts });
  let layer = 0;
  return async () => {
    await stages.attend(pass, layer);
    layer = (layer + 1) % numLayers;
  };
}

async function compare(
  name: string,
  numRounds: number,
  numRuns: number,
  prepare: (open: OpenSession) => Promise<Once> | Once,
): Promise<void> {
  const sides = { addon: await prepare(SIDES.addon), other: await prepare(SIDES["onnxruntime-node"]) };
  const times = { addon: [] as number[], other: [] as number[] };
  const ratios: number[] = [];
  // Round 0 warms up.
  for (let round = 0; round <= numRounds; round++) {
    const took = { addon: 0, other: 0 };
    for (const side of round % 2 === 0 ? (["addon", "other"] as const) : (["other", "addon"] as const)) {
      const once = sides[side];
      const from = performance.now();
      for (let i = 0; i < numRuns; i++) await once();
      took[side] = ((performance.now() - from) * 1000) / numRuns;
    }
    if (round === 0) continue;
    times.addon.push(took.addon);
    times.other.push(took.other);
    ratios.push(took.addon / took.other);
  }
  const [ours, theirs] = [median(times.addon).toFixed(1), median(times.other).toFixed(1)];
  const sorted = ratios.toSorted((a, b) => a - b);
  const [low, high] = [0.25, 0.75].map((share) => sorted[Math.floor(share * sorted.length)]?.toFixed(3));
  console.log(
    `${name}: addon ${ours} µs, onnxruntime-node ${theirs} µs, ratio ${median(ratios).toFixed(3)} (${low} to ${high})`,
  );
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

await main();
