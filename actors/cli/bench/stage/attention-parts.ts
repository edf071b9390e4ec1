import type { BenchGraph } from "./bench-graph.ts";
import { type KvSample, kvInputs, numPages, PAGE_TOKENS, rotatedBytes, ropeAttributes } from "./kv.ts";
import {
  activationBytes,
  activationInputs,
  type AttentionContext,
  EPSILON,
  GROUP,
  type Part,
  type PartContext,
  weightBytes,
  weightInputs,
  workspaceInput,
} from "./part.ts";
import { rotated } from "./rotation.ts";

/** Results of two FFN servers are added up where a layer begins. */
export const NUM_PARTIALS = 2;

/** The parts that depend on the batch alone. */
export function projectionParts(context: PartContext): Part[] {
  const { hiddenSize, shareQDim, headDim, numHeads } = context.config;
  const heads = numHeads * headDim;
  return [
    inputNorm(context),
    gemm(context, "qDownKv", shareQDim + 2 * headDim, hiddenSize),
    interNorm(context),
    gemm(context, "qUp", heads, shareQDim),
    gemm(context, "oProj", hiddenSize, heads, "with the residual"),
    postNorm(context),
    router(context),
  ];
}

/** The parts that depend on the KV cache too. */
export function cacheParts(context: AttentionContext, sample: KvSample): Part[] {
  return [ropeAppend(context), attention(context, sample)];
}

function inputNorm(context: PartContext): Part {
  const { batch, config, patterns } = context;
  const width = config.hiddenSize;
  const bytes = (2 + NUM_PARTIALS) * batch * width * 2 + activationBytes(batch, width);
  return {
    name: "inputNorm",
    bytes,
    flops: 0,
    build: () =>
      rotated(context, "inputNorm", bytes, (graph, set, unit) => {
        const residual = `residual_${set}`;
        if (unit === set) {
          graph.input(residual, "bf16", [batch, width], patterns.bf16());
          graph.input(`partials_${set}`, "bf16", [NUM_PARTIALS, batch, width], patterns.bf16());
        }
        if (unit === 0) graph.input("weight", "bf16", [width], patterns.bf16());
        const inputs = [residual, "weight", `partials_${set}`];
        const outputs = [`sum_${unit}`, `data_${unit}`, `scales_${unit}`];
        graph.own("AddRmsNormQuantise", inputs, outputs, { epsilon: EPSILON });
        graph.output(`sum_${unit}`, "bf16", [batch, width], residual);
        quantisedOutputs(graph, unit, batch, width);
      }),
  };
}

function postNorm(context: PartContext): Part {
  const { batch, config, patterns } = context;
  const width = config.hiddenSize;
  // The residual is as it was: o_proj has added to it.
  const bytes = 2 * batch * width * 2 + activationBytes(batch, width);
  return {
    name: "postNorm",
    bytes,
    flops: 0,
    build: () =>
      rotated(context, "postNorm", bytes, (graph, set, unit) => {
        const residual = `residual_${set}`;
        if (unit === set) graph.input(residual, "bf16", [batch, width], patterns.bf16());
        if (unit === 0) graph.input("weight", "bf16", [width], patterns.bf16());
        const outputs = [`sum_${unit}`, `data_${unit}`, `scales_${unit}`, `normed_${unit}`];
        graph.own("AddRmsNormQuantise", [residual, "weight"], outputs, { epsilon: EPSILON });
        graph.output(`sum_${unit}`, "bf16", [batch, width], residual);
        graph.output(`normed_${unit}`, "bf16", [batch, width]);
        quantisedOutputs(graph, unit, batch, width);
      }),
  };
}

function interNorm(context: PartContext): Part {
  const { batch, config, patterns } = context;
  const { shareQDim: width, headDim } = config;
  const bytes = batch * width * 2 + activationBytes(batch, width);
  return {
    name: "interNorm",
    bytes,
    flops: 0,
    build: () =>
      rotated(context, "interNorm", bytes, (graph, set, unit) => {
        if (unit === set) graph.input(`x_${set}`, "bf16", [batch, width + 2 * headDim], patterns.bf16());
        if (unit === 0) graph.input("weight", "bf16", [width], patterns.bf16());
        const outputs = [`data_${unit}`, `scales_${unit}`];
        graph.own("RmsNormQuantise", [`x_${set}`, "weight"], outputs, { epsilon: EPSILON });
        quantisedOutputs(graph, unit, batch, width);
      }),
  };
}

function gemm(context: PartContext, name: string, n: number, k: number, addend?: "with the residual"): Part {
  const { batch, sizes, patterns } = context;
  const bytes = weightBytes(n, k) + activationBytes(batch, k) + (addend === undefined ? 1 : 2) * batch * n * 2;
  return {
    name,
    bytes,
    flops: 2 * batch * n * k,
    build: () =>
      rotated(context, name, weightBytes(n, k), (graph, set, unit) => {
        if (unit === 0) {
          activationInputs(graph, context, "x", k);
          workspaceInput(graph, "workspace", sizes.gemmWorkspace(batch, n, k));
        }
        if (unit === set) {
          weightInputs(graph, context, `w${set}`, n, k);
          if (addend !== undefined) graph.input(`residual_${set}`, "bf16", [batch, n], patterns.bf16());
        }
        const inputs = ["x_data", "x_scales", `w${set}_tiles`, `w${set}_tile_scales`, "workspace"];
        if (addend !== undefined) inputs.push(`residual_${set}`);
        graph.own("Fp8Gemm", inputs, [`y_${unit}`]);
        graph.output(`y_${unit}`, "bf16", [batch, n], addend && `residual_${set}`);
      }),
  };
}

function router(context: PartContext): Part {
  const { batch, config, patterns } = context;
  const { hiddenSize, numExperts, topK } = config;
  const bytes = 2 * batch * hiddenSize + 4 * numExperts * hiddenSize + 8 * batch * topK;
  return {
    name: "router",
    bytes,
    flops: 2 * batch * numExperts * hiddenSize,
    build: () =>
      rotated(context, "router", bytes, (graph, set, unit) => {
        if (unit === set) {
          graph.input(`x_${set}`, "bf16", [batch, hiddenSize], patterns.bf16());
          graph.input(`router_${set}`, "f32", [numExperts, hiddenSize], patterns.f32(hiddenSize ** -0.5));
        }
        const outputs = [`ids_${unit}`, `weights_${unit}`];
        graph.own("RouteTopK", [`x_${set}`, `router_${set}`], outputs, { top_k: topK });
        graph.output(`ids_${unit}`, "i32", [batch, topK]);
        graph.output(`weights_${unit}`, "f32", [batch, topK]);
      }),
  };
}

function ropeAppend(context: AttentionContext): Part {
  const { batch, config, patterns, kv } = context;
  const { shareQDim, headDim, numHeads } = config;
  const stride = shareQDim + 2 * headDim;
  const written = batch * (rotatedBytes(config, kv) + 2 * headDim * (kv === "fp8" ? 1 : 2));
  const bytes = 2 * batch * (numHeads + 2) * headDim + written;
  return {
    name: "ropeAppend",
    bytes,
    flops: 0,
    build: () =>
      rotated(context, "ropeAppend", bytes, (graph, set, unit) => {
        // Which page the token goes to does not matter to its cost, unless it is the first token of a page.
        if (unit === 0) kvInputs(graph, { ...context, context: PAGE_TOKENS }, "kv");
        if (unit === set) {
          graph.input(`query_${set}`, "bf16", [batch, numHeads * headDim], patterns.bf16());
          graph.input(`fused_${set}`, "bf16", [batch, stride], patterns.bf16());
        }
        const inputs = [`query_${set}`, `fused_${set}`, "kv_cos_sin", "kv_pool", "kv_table", "kv_lengths"];
        graph.own("RopeAppend", inputs, [`rotated_${unit}`], ropeAttributes(config, kv));
        graph.output(`rotated_${unit}`, "u8", [batch, rotatedBytes(config, kv)]);
      }),
  };
}

function attention(context: AttentionContext, sample: KvSample): Part {
  const { batch, config, sizes, kv, context: tokens } = context;
  const { headDim, numHeads } = config;
  const heads = numHeads * headDim;
  const cacheBytes = batch * tokens * 2 * headDim * (kv === "fp8" ? 1 : 2);
  return {
    name: "attention",
    bytes: cacheBytes + batch * rotatedBytes(config, kv) + activationBytes(batch, heads),
    flops: 4 * batch * tokens * heads,
    build: () =>
      rotated(context, "attention", cacheBytes, (graph, set, unit) => {
        if (unit === 0) {
          graph.input("rotated", "u8", [batch, rotatedBytes(config, kv)], sample.rotated);
          const workspace = sizes.mfaWorkspace(batch, numPages(tokens), numHeads, headDim);
          workspaceInput(graph, "workspace", workspace);
        }
        if (unit === set) kvInputs(graph, context, `kv${set}`, sample);
        const cache = [`kv${set}_pool`, `kv${set}_table`, `kv${set}_lengths`];
        const { num_heads, head_dim, kv_type } = ropeAttributes(config, kv);
        const outputs = [`data_${unit}`, `scales_${unit}`];
        graph.own("MfaDecode", ["rotated", ...cache, "workspace"], outputs, { num_heads, head_dim, kv_type });
        quantisedOutputs(graph, unit, batch, heads);
      }),
  };
}

function quantisedOutputs(graph: BenchGraph, unit: number, rows: number, width: number): void {
  graph.output(`data_${unit}`, "fp8-e4m3", [rows, width]);
  graph.output(`scales_${unit}`, "f32", [width / GROUP, rows]);
}
