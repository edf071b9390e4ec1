import { NUM_PARTIALS } from "./attention-parts.ts";
import { BenchGraph } from "./bench-graph.ts";
import { angles, type KvSample, kvInputs, numPages, ropeAttributes } from "./kv.ts";
import { type AttentionContext, EPSILON, GROUP, type Part, weightInputs, workspaceInput } from "./part.ts";

/** Layers in the graph: 170 MB of weights each, besides the KV cache of each. */
const NUM_LAYERS = 4;

/** The whole attention stage of several layers in a row, in one graph. Its floor is that of its parts. */
export function attentionStage(context: AttentionContext, sample: KvSample, parts: readonly Part[]): Part {
  const sum = (value: (part: Part) => number) => parts.reduce((total, part) => total + value(part), 0);
  return {
    name: "stage",
    bytes: sum(({ bytes }) => bytes),
    flops: sum(({ flops }) => flops),
    isWhole: true,
    build: () => build(context, sample),
  };
}

function build(context: AttentionContext, sample: KvSample): BenchGraph {
  const { batch, config, sizes, patterns, kv, context: tokens } = context;
  const { hiddenSize, shareQDim, numHeads, headDim, numExperts, topK } = config;
  const heads = numHeads * headDim;
  const graph = new BenchGraph("attention_stage");
  graph.units = NUM_LAYERS;
  graph.input("residual", "bf16", [batch, hiddenSize], patterns.bf16());
  graph.input("cos_sin", "f32", [tokens, headDim / 2, 2], angles(config, tokens));
  workspaceInput(graph, "mfa_workspace", sizes.mfaWorkspace(batch, numPages(tokens), numHeads, headDim));
  const gemmBytes = Math.max(
    sizes.gemmWorkspace(batch, shareQDim + 2 * headDim, hiddenSize),
    sizes.gemmWorkspace(batch, heads, shareQDim),
    sizes.gemmWorkspace(batch, hiddenSize, heads),
  );
  workspaceInput(graph, "gemm_workspace", gemmBytes);
  const gemm = (x: string, name: string, n: number, k: number, y: string, addend?: string) => {
    const weights = weightInputs(graph, context, name, n, k);
    const inputs = [`${x}_data`, `${x}_scales`, ...weights, "gemm_workspace"];
    graph.own("Fp8Gemm", addend === undefined ? inputs : [...inputs, addend], [y]);
  };
  const norm = (name: string, width: number) => graph.input(name, "bf16", [width], patterns.bf16());
  const attributes = ropeAttributes(config, kv);
  const { num_heads, head_dim, kv_type } = attributes;

  let residual = "residual";
  for (let layer = 0; layer < NUM_LAYERS; layer++) {
    const at = (name: string) => `l${layer}_${name}`;
    graph.input(at("partials"), "bf16", [NUM_PARTIALS, batch, hiddenSize], patterns.bf16());
    const summed = [residual, norm(at("input_norm"), hiddenSize), at("partials")];
    graph.own("AddRmsNormQuantise", summed, [at("sum"), at("x_data"), at("x_scales")], { epsilon: EPSILON });
    gemm(at("x"), at("q_down_kv"), shareQDim + 2 * headDim, hiddenSize, at("fused"));
    const low = [at("fused"), norm(at("inter_norm"), shareQDim)];
    graph.own("RmsNormQuantise", low, [at("low_data"), at("low_scales")], { epsilon: EPSILON });
    gemm(at("low"), at("q_up"), heads, shareQDim, at("query"));
    kvInputs(graph, context, at("kv"), sample);
    const cache = ["pool", "table", "lengths"].map((name) => at(`kv_${name}`));
    graph.own("RopeAppend", [at("query"), at("fused"), "cos_sin", ...cache], [at("rotated")], attributes);
    const attended = [at("heads_data"), at("heads_scales")];
    graph.own("MfaDecode", [at("rotated"), ...cache, "mfa_workspace"], attended, { num_heads, head_dim, kv_type });
    gemm(at("heads"), at("o_proj"), hiddenSize, heads, at("attended"), at("sum"));
    const posted = [at("residual"), at("data"), at("scales"), at("normed")];
    graph.own("AddRmsNormQuantise", [at("attended"), norm(at("post_norm"), hiddenSize)], posted, { epsilon: EPSILON });
    graph.input(at("router"), "f32", [numExperts, hiddenSize], patterns.f32(hiddenSize ** -0.5));
    graph.own("RouteTopK", [at("normed"), at("router")], [at("ids"), at("weights")], { top_k: topK });
    // What is dispatched to the experts.
    graph.output(at("data"), "fp8-e4m3", [batch, hiddenSize]);
    graph.output(at("scales"), "f32", [hiddenSize / GROUP, batch]);
    graph.output(at("ids"), "i32", [batch, topK]);
    graph.output(at("weights"), "f32", [batch, topK]);
    residual = at("residual");
  }
  graph.output(residual, "bf16", [batch, hiddenSize]);
  return graph;
}
