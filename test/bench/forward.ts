/**
 * Decode throughput of a one-process loop over the stages, seeded random weights of the bundled model's dimensions. Compiled, then
 * `node <dist>/test/bench/forward.js [numThreads…]`; prints tokens/s at 1, 8 and 32 sequences and where the time goes.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { withGlibcMemory } from "../../infra/glibc-memory.ts";
import { loadConfig, openAttentionStages, openFfnShard, shardSpecs } from "../../models/load.ts";
import { Forward } from "../support/forward.ts";
import { BUNDLED_DIMENSIONS, writeRandomCheckpoint } from "../support/random-checkpoint.ts";

const PROMPT_TOKENS = 96;
const OUTPUT_TOKENS = 128;

async function main(): Promise<void> {
  const threads = process.argv.slice(2).map(Number);
  const dir = mkdtempSync(path.join(tmpdir(), "rally-forward-"));
  try {
    writeRandomCheckpoint(dir, BUNDLED_DIMENSIONS, { storage: "F8_E4M3" });
    for (const numThreads of threads.length > 0 ? threads : [1, 2]) await benchmark(dir, numThreads);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function benchmark(modelDir: string, numThreads: number): Promise<void> {
  const options = { numThreads, cacheDir: path.join(modelDir, "cache") };
  const config = await loadConfig(modelDir);
  for (const start of ["first", "second"]) {
    const from = performance.now();
    const stages = await openAttentionStages(modelDir, options);
    const middle = performance.now();
    const shards = await Promise.all(shardSpecs(config, 1).map((spec) => openFfnShard(modelDir, spec, options)));
    const to = performance.now();
    console.log(`${numThreads} threads, ${start} start: attention ${ms(middle - from)}, experts ${ms(to - middle)}`);
    const forward = new Forward(stages, shards);
    if (start === "second") for (const numSequences of [1, 8, 32]) await decode(forward, numSequences, numThreads);
    await forward.release();
  }
}

async function decode(forward: Forward, numSequences: number, numThreads: number): Promise<void> {
  const { vocabSize } = forward.stages.config;
  const kv = forward.cache(numSequences);
  const prompts = Array.from({ length: numSequences * PROMPT_TOKENS }, (_, i) => (i * 7919 + 13) % vocabSize);
  const prefillFrom = performance.now();
  let pass = await forward.pass(
    kv,
    prompts,
    Array.from({ length: numSequences }, () => 0),
  );
  const prefill = performance.now() - prefillFrom;
  let rows = Array.from({ length: numSequences }, (_, i) => (i + 1) * PROMPT_TOKENS - 1);
  const next = Array.from({ length: numSequences }, (_, i) => i);
  Object.assign(forward.spent, { plan: 0, attend: 0, ffn: 0, combine: 0, head: 0 });
  const from = performance.now();
  for (let step = 0; step < OUTPUT_TOKENS; step++) {
    const logits = await forward.head(pass, rows);
    const tokenIds = next.map((row) => argmax(logits, row * vocabSize, vocabSize));
    pass = await forward.pass(
      kv,
      tokenIds,
      Array.from({ length: numSequences }, () => PROMPT_TOKENS + step),
    );
    rows = next;
  }
  const seconds = (performance.now() - from) / 1000;
  const rate = Math.round((numSequences * OUTPUT_TOKENS) / seconds);
  const perStep = Object.entries(forward.spent).map(([stage, time]) => `${stage} ${ms(time / OUTPUT_TOKENS)}`);
  const prefillRate = Math.round((numSequences * PROMPT_TOKENS) / (prefill / 1000));
  console.log(
    `${numThreads} threads, ${numSequences} sequences: ${rate} tokens/s, prefill ${prefillRate} tokens/s; per step: ${perStep.join(", ")}`,
  );
}

function argmax(values: Float32Array, from: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count; i++) {
    if ((values[from + i] as number) > (values[from + best] as number)) best = i;
  }
  return best;
}

function ms(value: number): string {
  return `${value.toFixed(2)} ms`;
}

const env = withGlibcMemory(process.env);
if (env["GLIBC_TUNABLES"] === process.env["GLIBC_TUNABLES"]) await main();
else {
  const again = [fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  process.exitCode = spawnSync(process.execPath, again, { env, stdio: "inherit" }).status ?? 1;
}
