import type { ModelConfig } from "../../../../models/config.ts";
import type { Place } from "../../../../models/kernels/check/runner.ts";
import type { KvKind } from "../../../../models/planner/planned-model.ts";
import { BenchGraph } from "./bench-graph.ts";
import type { AttentionContext } from "./part.ts";
import { withGraph } from "./time-graph.ts";

export const PAGE_TOKENS = 64;
const KV_TYPES = { fp8: "e4m3", bf16: "bf16" } as const;

/** Pages as the append operator writes them, and queries as it leaves them: their layout is the kernels' own. */
export interface KvSample {
  readonly pages: Uint8Array;
  readonly rotated: Uint8Array;
}

export function numPages(context: number): number {
  return Math.ceil(context / PAGE_TOKENS);
}

/** Rotated queries of a token: in e4m3 with a scale for each head. */
export function rotatedBytes({ numHeads, headDim }: ModelConfig, kv: KvKind): number {
  return numHeads * (kv === "fp8" ? headDim + 4 : 2 * headDim);
}

export function ropeAttributes({ numHeads, headDim, shareQDim }: ModelConfig, kv: KvKind) {
  return {
    num_heads: numHeads,
    head_dim: headDim,
    kv_type: KV_TYPES[kv],
    key_offset: shareQDim,
    value_offset: shareQDim + headDim,
  };
}

/** Pool, page table in random order, lengths and angles of one layer. Without a sample the pages hold zeros. */
export function kvInputs(graph: BenchGraph, context: AttentionContext, name: string, sample?: KvSample): void {
  const { batch, config, sizes, patterns, kv, context: tokens } = context;
  const pages = numPages(tokens);
  const dims = [batch * pages, sizes.kvPage(KV_TYPES[kv], config.headDim)];
  graph.input(`${name}_pool`, "u8", dims, sample?.pages ?? new Uint8Array(1));
  graph.input(`${name}_table`, "i32", [batch, pages], patterns.shuffled(batch * pages));
  graph.input(`${name}_lengths`, "i32", [batch], Int32Array.of(tokens));
  if (sample === undefined)
    graph.input(`${name}_cos_sin`, "f32", [tokens, config.headDim / 2, 2], angles(config, tokens));
}

/** Appends one page of random tokens for each sequence. */
export function sampleKv(place: Place, context: AttentionContext): KvSample {
  const { batch, config, patterns, kv } = context;
  const { numHeads, headDim, shareQDim } = config;
  const graph = new BenchGraph("sample");
  kvInputs(graph, { ...context, context: PAGE_TOKENS }, "kv");
  graph.input("query", "bf16", [batch, numHeads * headDim], patterns.bf16());
  graph.input("fused", "bf16", [batch, shareQDim + 2 * headDim], patterns.bf16());
  const inputs = ["query", "fused", "kv_cos_sin", "kv_pool", "kv_table", "kv_lengths"];
  graph.own("RopeAppend", inputs, ["rotated"], ropeAttributes(config, kv));
  graph.output("rotated", "u8", [batch, rotatedBytes(config, kv)]);
  return withGraph(place, graph, false, ({ inputs: fed, outputs, binding }) => {
    for (let length = 1; length <= PAGE_TOKENS; length++) {
      fed.get("kv_lengths")?.fillWith(Int32Array.of(length));
      fed.get("fused")?.fillWith(patterns.bf16(997 * length));
      binding.run();
    }
    const read = (name: string) => {
      const tensor = fed.get(name) ?? outputs.get(name);
      if (tensor === undefined) throw new Error(`broken invariant: the graph has ${name}`);
      return tensor.download(new Uint8Array(tensor.dims.reduce((size, dim) => size * dim, 1)));
    };
    return { pages: read("kv_pool"), rotated: read("rotated") };
  });
}

/** [positions, headDim / 2, 2]: cosine and sine. */
export function angles({ headDim, ropeTheta }: ModelConfig, positions: number): Float32Array {
  const half = headDim / 2;
  const table = new Float32Array(positions * headDim);
  for (let position = 0; position < positions; position++) {
    for (let dim = 0; dim < half; dim++) {
      const angle = position * ropeTheta ** (-dim / half);
      table[position * headDim + 2 * dim] = Math.cos(angle);
      table[position * headDim + 2 * dim + 1] = Math.sin(angle);
    }
  }
  return table;
}
