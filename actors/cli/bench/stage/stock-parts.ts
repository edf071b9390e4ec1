import type { Part, PartContext, AttentionContext } from "./part.ts";
import { expertRows } from "./ffn-parts.ts";
import { rotated } from "./rotation.ts";

/** What ONNX Runtime has for a part by itself: bf16, for it has no FP8 matrix products on Hopper and no FP8 cache. */
export type StockPart = Pick<Part, "name" | "build"> & { readonly method: string };

export function stockProjections(context: PartContext): StockPart[] {
  const { hiddenSize, shareQDim, headDim, numHeads } = context.config;
  const heads = numHeads * headDim;
  return [
    skipNorm(context),
    norm(context),
    matMul(context, "qDownKv", shareQDim + 2 * headDim, hiddenSize),
    matMul(context, "qUp", heads, shareQDim),
    matMul(context, "oProj", hiddenSize, heads),
  ];
}

function matMul(context: PartContext, name: string, n: number, k: number): StockPart {
  const { batch, patterns } = context;
  const build = () =>
    rotated(context, `stock_${name}`, 2 * n * k, (graph, set, unit) => {
      if (unit === 0) graph.input("x", "bf16", [batch, k], patterns.bf16());
      if (unit === set) graph.input(`w_${set}`, "bf16", [k, n], patterns.bf16());
      graph.stock("node", "MatMul", ["x", `w_${set}`], [`y_${unit}`]);
      graph.output(`y_${unit}`, "bf16", [batch, n]);
    });
  return { name, method: "MatMul, bf16", build };
}

function skipNorm(context: PartContext): StockPart {
  const { batch, config, patterns } = context;
  const width = config.hiddenSize;
  const build = () =>
    rotated(context, "stock_inputNorm", 8 * batch * width, (graph, set, unit) => {
      if (unit === 0) graph.input("weight", "bf16", [width], patterns.bf16());
      if (unit === set) {
        for (const name of ["x", "skip"]) graph.input(`${name}_${set}`, "bf16", [batch, width], patterns.bf16());
      }
      const outputs = [`y_${unit}`, "", "", `sum_${unit}`];
      const attributes = { epsilon: { float: 1e-5 } };
      graph.stock(
        "contrib",
        "SkipSimplifiedLayerNormalization",
        [`x_${set}`, `skip_${set}`, "weight"],
        outputs,
        attributes,
      );
      for (const name of [`y_${unit}`, `sum_${unit}`]) graph.output(name, "bf16", [batch, width]);
    });
  return { name: "inputNorm", method: "SkipSimplifiedLayerNormalization, bf16, not quantised", build };
}

function norm(context: PartContext): StockPart {
  const { batch, config, patterns } = context;
  const width = config.shareQDim;
  const build = () =>
    rotated(context, "stock_interNorm", 4 * batch * width, (graph, set, unit) => {
      if (unit === 0) graph.input("weight", "bf16", [width], patterns.bf16());
      if (unit === set) graph.input(`x_${set}`, "bf16", [batch, width], patterns.bf16());
      const attributes = { axis: -1, epsilon: { float: 1e-5 }, stash_type: 1 };
      graph.stock("node", "SimplifiedLayerNormalization", [`x_${set}`, "weight"], [`y_${unit}`], attributes);
      graph.output(`y_${unit}`, "bf16", [batch, width]);
    });
  return { name: "interNorm", method: "SimplifiedLayerNormalization, bf16, not quantised", build };
}

/** RoPE, append and attention in one operator, over a contiguous cache. */
export function stockAttention(context: AttentionContext): StockPart {
  const { batch, config, patterns, context: tokens } = context;
  const { numHeads, headDim } = config;
  const cache = [batch, 1, tokens, headDim];
  const build = () =>
    rotated(context, "stock_attention", 4 * batch * tokens * headDim, (graph, set, unit) => {
      if (unit === 0) {
        graph.input("query", "bf16", [batch, 1, numHeads * headDim], patterns.bf16());
        for (const name of ["key", "value"]) graph.input(name, "bf16", [batch, 1, headDim], patterns.bf16());
        graph.input("past_lengths", "i32", [batch], Int32Array.of(tokens - 1));
        graph.input("total_length", "i32", [1], Int32Array.of(tokens), "host");
        for (const name of ["cos", "sin"]) graph.input(name, "bf16", [tokens, headDim / 2], patterns.bf16());
      }
      const past = [`keys_${set}`, `values_${set}`];
      if (unit === set) for (const name of past) graph.input(name, "bf16", cache, patterns.bf16());
      const inputs = ["query", "key", "value", ...past, "past_lengths", "total_length", "cos", "sin"];
      const present = [`new_keys_${unit}`, `new_values_${unit}`];
      const attributes = { num_heads: numHeads, kv_num_heads: 1, do_rotary: 1 };
      graph.stock("contrib", "GroupQueryAttention", inputs, [`y_${unit}`, ...present], attributes);
      graph.output(`y_${unit}`, "bf16", [batch, 1, numHeads * headDim]);
      present.forEach((name, i) => graph.output(name, "bf16", cache, past[i]));
    });
  return { name: "attention", method: "GroupQueryAttention, bf16, RoPE and append within", build };
}

/** Four experts of which each token visits one, by random routing. */
export function stockExperts(context: PartContext): StockPart {
  const { batch, config, patterns } = context;
  const { hiddenSize: width, expertDim: inter } = config;
  const rows = expertRows(batch, "balanced");
  const [numExperts, numRows] = [rows.length, rows.reduce((sum, count) => sum + count, 0)];
  const build = () =>
    rotated(context, "stock_experts", 6 * numExperts * width * inter, (graph, set, unit) => {
      if (unit === 0) {
        graph.input("x", "bf16", [numRows, width], patterns.bf16());
        graph.input("logits", "bf16", [numRows, numExperts], patterns.bf16());
      }
      if (unit === set) {
        for (const name of ["gate", "up"]) {
          graph.input(`${name}_${set}`, "bf16", [numExperts, inter, width], patterns.bf16());
        }
        graph.input(`down_${set}`, "bf16", [numExperts, width, inter], patterns.bf16());
      }
      const inputs = ["x", "logits", `gate_${set}`, "", `down_${set}`, "", `up_${set}`];
      const attributes = { activation_type: "silu", k: 1, normalize_routing_weights: 0 };
      graph.stock("contrib", "MoE", inputs, [`y_${unit}`], attributes);
      graph.output(`y_${unit}`, "bf16", [numRows, width]);
    });
  return { name: "experts", method: "MoE, bf16, random routing", build };
}
