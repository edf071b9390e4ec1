import { BenchGraph } from "./bench-graph.ts";
import { NUM_PARTIALS } from "./attention-parts.ts";
import {
  activationBytes,
  activationInputs,
  EPSILON,
  GROUP,
  type Part,
  type PartContext,
  weightBytes,
  weightInputs,
  workspaceInput,
} from "./part.ts";
import { rotated } from "./rotation.ts";

export type Routing = "balanced" | "skewed";

/** Routed experts of one of the 16 GPUs of two FFN servers; then comes the shared expert. */
const LOCAL_EXPERTS = 3;
/** A dense layer is cut into this many slices, each like an expert that every token visits. */
const DENSE_SLICES = 4;
const NUM_CANDIDATES = 64;

/**
 * Rows of each local expert, the shared one last, in 2A2F with `batch` tokens on each of 16 attention GPUs: 16 batch x 3 / 48 for a
 * routed expert, a sixteenth of the tokens for the shared one. Skewed: as many in all, one expert with two thirds of them.
 */
export function expertRows(batch: number, routing: Routing): readonly number[] {
  const routed =
    routing === "balanced"
      ? [batch, batch, batch]
      : [2 * batch, 3 * Math.floor(batch / 4), 3 * batch - 2 * batch - 3 * Math.floor(batch / 4)];
  return [...routed, batch];
}

/** A MoE layer's share of one GPU: every row is one token at one expert. */
export function experts(context: PartContext, routing: Routing): Part {
  const { config, patterns, batch } = context;
  const rows = expertRows(batch, routing);
  const numRows = rows.reduce((sum, count) => sum + count, 0);
  const ids = rows.flatMap((count, expert) => Array.from({ length: count }, () => expert));
  const order = patterns.shuffled(numRows);
  return ffn(context, "experts", {
    numRows,
    choices: Int32Array.from(order, (i) => ids[i] as number),
    perRow: 1,
    numLocal: LOCAL_EXPERTS + 1,
    inter: config.expertDim,
  });
}

/** A dense layer whole, for the tokens of one attention GPU: down(silu(gate x) up x) is a sum over slices of the middle. */
export function dense(context: PartContext): Part {
  const { config, batch } = context;
  return ffn(context, "dense", {
    numRows: batch,
    choices: Int32Array.from({ length: batch * DENSE_SLICES }, (_, i) => i % DENSE_SLICES),
    perRow: DENSE_SLICES,
    numLocal: DENSE_SLICES,
    inter: config.denseDim / DENSE_SLICES,
  });
}

interface FfnShape {
  readonly numRows: number;
  /** [numRows, perRow] */
  readonly choices: Int32Array;
  readonly perRow: number;
  readonly numLocal: number;
  readonly inter: number;
}

function ffn(context: PartContext, name: string, { numRows, choices, perRow, numLocal, inter }: FfnShape): Part {
  const { config, patterns, sizes } = context;
  const width = config.hiddenSize;
  const weights = numLocal * (weightBytes(2 * inter, width) + weightBytes(width, inter));
  const build = () =>
    rotated(context, name, weights, (graph, set, unit) => {
      if (unit === 0) {
        activationInputs(graph, { ...context, batch: numRows }, "x", width);
        graph.input("ids", "i32", [numRows, perRow], choices);
        graph.input("weights", "f32", [numRows, perRow], patterns.scales(1));
        graph.input(
          "local_of",
          "i32",
          [numLocal],
          Int32Array.from({ length: numLocal }, (_, i) => i),
        );
        workspaceInput(graph, "workspace", sizes.expertWorkspace(numRows, perRow, numLocal, width, inter));
      }
      if (unit === set) {
        matrices(graph, context, `gate_up_${set}`, numLocal, 2 * inter, width);
        matrices(graph, context, `down_${set}`, numLocal, width, inter);
      }
      const own = [`gate_up_${set}`, `gate_up_${set}_scales`, `down_${set}`, `down_${set}_scales`];
      const inputs = ["x_data", "x_scales", "ids", "weights", "local_of", ...own, "workspace"];
      graph.own("ExpertFfn", inputs, [`y_${unit}`], { shared_local: -1 });
      graph.output(`y_${unit}`, "bf16", [numRows, width]);
    });
  return {
    name,
    bytes: weights + activationBytes(numRows, width) + 2 * numRows * width,
    flops: 6 * choices.length * width * inter,
    build,
  };
}

function matrices(
  graph: BenchGraph,
  { patterns }: PartContext,
  name: string,
  count: number,
  n: number,
  k: number,
): void {
  graph.input(name, "fp8-e4m3", [count, n / GROUP, k / GROUP, GROUP, GROUP], patterns.e4m3());
  graph.input(`${name}_scales`, "f32", [count, n / GROUP, k / GROUP], patterns.scales(k ** -0.5));
}

/** Once per token, on the attention side: embedding, last norm, LM head, and the candidates that leave the GPU. */
export function head(context: PartContext): Part {
  const { batch, config, patterns, sizes } = context;
  const { hiddenSize: width, vocabSize: vocab } = config;
  const columns = Math.ceil(vocab / GROUP) * GROUP;
  const build = () => {
    const graph = new BenchGraph("head");
    graph.units = 2;
    graph.input("token_ids", "i32", [batch], patterns.shuffled(vocab).slice(0, batch));
    graph.input("table", "bf16", [vocab, width], patterns.bf16());
    graph.input("residual", "bf16", [batch, width], patterns.bf16());
    graph.input("partials", "bf16", [NUM_PARTIALS, batch, width], patterns.bf16());
    graph.input("norm", "bf16", [width], patterns.bf16());
    workspaceInput(graph, "gemm_workspace", sizes.gemmWorkspace(batch, columns, width));
    workspaceInput(graph, "workspace", sizes.candidatesWorkspace(batch, vocab, NUM_CANDIDATES));
    for (let unit = 0; unit < graph.units; unit++) {
      const at = (name: string) => `${name}_${unit}`;
      graph.own("Embed", ["token_ids", "table"], [at("embedded")]);
      graph.output(at("embedded"), "bf16", [batch, width]);
      const normed = [at("sum"), at("x_data"), at("x_scales")];
      graph.own("AddRmsNormQuantise", ["residual", "norm", "partials"], normed, { epsilon: EPSILON });
      graph.output(at("sum"), "bf16", [batch, width], "residual");
      const weights = weightInputs(graph, context, at("head"), columns, width);
      graph.own("Fp8Gemm", [at("x_data"), at("x_scales"), ...weights, "gemm_workspace"], [at("logits")]);
      const outputs = [at("ids"), at("values"), at("log_sum")];
      const attributes = { num_candidates: NUM_CANDIDATES, vocab };
      graph.own("TopCandidates", [at("logits"), "workspace"], outputs, attributes);
      graph.output(at("ids"), "i32", [batch, NUM_CANDIDATES]);
      graph.output(at("values"), "f32", [batch, NUM_CANDIDATES]);
      graph.output(at("log_sum"), "f32", [batch]);
    }
    return graph;
  };
  const logits = 2 * batch * columns;
  return {
    name: "head",
    bytes: weightBytes(columns, width) + 2 * logits + (3 + NUM_PARTIALS) * 2 * batch * width,
    flops: 2 * batch * columns * width,
    build,
  };
}
