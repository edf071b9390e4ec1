import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { OpenOptions } from "../../../models/family.ts";
import { openAttentionStages, openFfnShard, shardSpecs } from "../../../models/load.ts";
import { Reference } from "../../../models/reference.ts";
import { Forward } from "../../support/forward.ts";
import { BUNDLED_DIMENSIONS, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";

/** The matrices of the bundled model are large enough for other kernels than the small ones of stages.test.ts. */
const MODEL = { ...BUNDLED_DIMENSIONS, num_hidden_layers: 3, moe_layers_enum: "1", vocab_size: 512 };
const VOCAB = MODEL.vocab_size;
const ids = Array.from({ length: 97 }, (_, i) => (i * i * 31 + 7) % VOCAB);
let dir: string;
let reference: Reference;

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-bundled-"));
  writeRandomCheckpoint(dir, MODEL, { storage: "F8_E4M3" });
  reference = new Reference(dir);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function open(threads: Pick<OpenOptions, "numThreads" | "numThreadsAlone">): Promise<Forward> {
  const options = { ...threads, cacheDir: path.join(dir, "cache") };
  const shards = shardSpecs(reference.config, 2).map((spec) => openFfnShard(dir, spec, options));
  return new Forward(await openAttentionStages(dir, options), await Promise.all(shards));
}

it("computes the reference's logits, the same bits in any batch, chunk, stride and number of threads", async () => {
  const results: Float32Array[] = [];
  for (const threads of [{ numThreads: 1 }, { numThreads: 2 }, { numThreads: 1, numThreadsAlone: 2 }]) {
    const forward = await open(threads);
    const kv = forward.cache(1);
    results.push((await forward.head(await forward.pass(kv, ids, [0]), [...ids.keys()])).slice());

    const chunked = forward.cache(3);
    chunked.reserve(320, 3);
    const logits: number[] = [];
    for (const [from, to] of [
      [0, 64],
      [64, 65],
      [65, 72],
      [72, 97],
    ] as const) {
      const pass = await forward.pass(chunked, ids.slice(from, to), [from], { firstSlot: 2 });
      logits.push(...(await forward.head(pass, [...Array(to - from).keys()])));
    }
    results.push(new Float32Array(logits));

    // 32 sequences, each one token further, decode together.
    const batch = forward.cache(32);
    for (let slot = 0; slot < 32; slot++) await forward.pass(batch, ids.slice(0, slot + 65), [0], { firstSlot: slot });
    const pasts = Array.from({ length: 32 }, (_, slot) => slot + 65);
    const pass = await forward.pass(
      batch,
      pasts.map((past) => ids[past] as number),
      pasts,
    );
    const decoded = await forward.head(pass, [...pasts.keys()]);
    expect(decoded.slice()).toEqual((results[0] as Float32Array).slice(65 * VOCAB, 97 * VOCAB));
    await forward.release();
  }
  const [first = new Float32Array(0), ...others] = results;
  for (const other of others) expect(other).toEqual(first);

  const { logits } = reference.forward(ids);
  const largest = logits.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const error = first.reduce((max, value, i) => Math.max(max, Math.abs(value - (logits[i] as number))), 0);
  expect(error / largest).toBeLessThan(1e-5);
}, 60_000);
