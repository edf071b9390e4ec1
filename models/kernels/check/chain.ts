import type { Data, HostTensor } from "./case.ts";
import type { KernelSizes } from "../sizes.ts";
import { Random, toBf16 } from "./numbers.ts";

export interface ChainSizes {
  readonly numTokens: number;
  readonly hidden: number;
  readonly qRank: number;
  readonly inter: number;
  /** Tokens that a sequence may have. */
  readonly context: number;
  readonly numLocal: number;
}

/** Step-3's own. */
export const STEP3_CHAIN: ChainSizes = {
  numTokens: 128,
  hidden: 7168,
  qRank: 2048,
  inter: 5120,
  context: 512,
  numLocal: 4,
};

interface ChainTensor {
  readonly type: HostTensor["type"];
  readonly dims: readonly number[];
  /** Repeated through it before a run; what has none is written by a node. */
  readonly fill?: Data;
  /** Lies in the memory of this other. */
  readonly alias?: string;
}

/** An operator of ours, or ONNX's own Reshape. */
export interface ChainNode {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, number | string | { readonly float: number }>>;
  readonly reshape?: readonly number[];
  /** Before it runs with a tensor as that is filled, it runs with each of these in it. */
  readonly warmUp?: { readonly tensor: string; readonly values: readonly Int32Array[] };
}

export interface Chain {
  readonly tensors: ReadonlyMap<string, ChainTensor>;
  readonly nodes: readonly ChainNode[];
}

const NUM_HEADS = 64;
const HEAD_DIM = 256;
const NUM_EXPERTS = 48;
const TOP_K = 3;
const EPSILON = { float: 1e-5 };

/** All operators of a layer in their order, attention and experts, on random weights. */
export function layerChain(sizes: ChainSizes, kernels: KernelSizes): Chain {
  const { numTokens: T, hidden, qRank, inter, context, numLocal } = sizes;
  const random = new Random(11);
  const tensors = new Map<string, ChainTensor>();
  const nodes: ChainNode[] = [];
  const heads = NUM_HEADS * HEAD_DIM;
  const stride = qRank + 2 * HEAD_DIM;
  const maxPages = Math.ceil(context / 64);
  const tensor = (name: string, type: ChainTensor["type"], dims: readonly number[], rest: Partial<ChainTensor> = {}) =>
    void tensors.set(name, { type, dims, ...rest });
  const workspace = (name: string, bytes: number) => tensor(name, "u8", [bytes], { fill: new Uint8Array(1) });
  const quantised = (name: string, width: number) => {
    tensor(`${name}.data`, "fp8-e4m3", [T, width]);
    tensor(`${name}.scales`, "f32", [width / 128, T]);
    return [`${name}.data`, `${name}.scales`];
  };
  const weights = (name: string, before: readonly number[], n: number, k: number) => {
    tensor(`${name}.tiles`, "fp8-e4m3", [...before, n / 128, k / 128, 128, 128], { fill: random.e4m3(999_983) });
    // Random e4m3 are about 80 in size.
    tensor(`${name}.scales`, "f32", [...before, n / 128, k / 128], {
      fill: random.scales(1009, 448 / 80 / Math.sqrt(k)),
    });
    return [`${name}.tiles`, `${name}.scales`];
  };
  const gemm = (name: string, x: readonly string[], n: number, k: number, addend?: string) => {
    workspace(`${name}.workspace`, kernels.gemmWorkspace(T, n, k));
    tensor(name, "bf16", [T, n], addend === undefined ? {} : { alias: addend });
    const added = addend === undefined ? [] : [addend];
    const inputs = [...x, ...weights(`${name}.weight`, [], n, k), `${name}.workspace`, ...added];
    nodes.push({ op: "Fp8Gemm", inputs, outputs: [name] });
  };
  const addNorm = (name: string, residual: string, partials: readonly string[]) => {
    tensor(`${name}.weight`, "bf16", [hidden], { fill: toBf16(Float64Array.of(1)) });
    tensor(`${name}.sum`, "bf16", [T, hidden], { alias: residual });
    tensor(`${name}.normed`, "bf16", [T, hidden]);
    const outputs = [`${name}.sum`, ...quantised(name, hidden), `${name}.normed`];
    const inputs = [residual, `${name}.weight`, ...partials];
    nodes.push({ op: "AddRmsNormQuantise", inputs, outputs, attributes: { epsilon: EPSILON } });
    return outputs;
  };

  tensor("ids", "i32", [T], { fill: Int32Array.from({ length: T }, () => random.below(100)) });
  tensor("table", "bf16", [100, hidden], { fill: random.bf16(10_007) });
  tensor("residual", "bf16", [T, hidden]);
  nodes.push({ op: "Embed", inputs: ["ids", "table"], outputs: ["residual"] });
  const [first = "", ...input] = addNorm("input", "residual", []);
  gemm("down", input.slice(0, 2), stride, hidden);
  tensor("inter.weight", "bf16", [qRank], { fill: toBf16(Float64Array.of(1)) });
  const inner = quantised("inter", qRank);
  nodes.push({
    op: "RmsNormQuantise",
    inputs: ["down", "inter.weight"],
    outputs: inner,
    attributes: { epsilon: EPSILON },
  });
  gemm("query", inner, heads, qRank);
  const kv = { num_heads: NUM_HEADS, head_dim: HEAD_DIM, kv_type: "e4m3" } as const;
  tensor("cos_sin", "f32", [context, HEAD_DIM / 2, 2], { fill: Float32Array.of(0.8, 0.6) });
  tensor("pool", "u8", [T * maxPages, kernels.kvPage("e4m3", HEAD_DIM)], { fill: new Uint8Array(1) });
  tensor("page_table", "i32", [T, maxPages], { fill: Int32Array.from({ length: T * maxPages }, (_, i) => i) });
  const lengths = Int32Array.from({ length: T }, () => 1 + random.below(context));
  tensor("lengths", "i32", [T], { fill: lengths });
  // Fills the cache up to there.
  const growing = Array.from({ length: context }, (_, step) => lengths.map((length) => Math.min(length, step + 1)));
  tensor("rotated", "u8", [T, NUM_HEADS * (HEAD_DIM + 4)]);
  nodes.push({
    op: "RopeAppend",
    inputs: ["query", "down", "cos_sin", "pool", "page_table", "lengths"],
    outputs: ["rotated"],
    attributes: { ...kv, key_offset: qRank, value_offset: qRank + HEAD_DIM },
    warmUp: { tensor: "lengths", values: growing },
  });
  workspace("mfa.workspace", kernels.mfaWorkspace(T, maxPages, NUM_HEADS, HEAD_DIM));
  const attended = quantised("attended", heads);
  nodes.push({
    op: "MfaDecode",
    inputs: ["rotated", "pool", "page_table", "lengths", "mfa.workspace"],
    outputs: attended,
    attributes: kv,
  });
  gemm("output", attended, hidden, heads, first);
  const [second = "", ...routed] = addNorm("post", "output", []);
  tensor("router", "f32", [NUM_EXPERTS, hidden], { fill: random.f32(10_007, 1 / Math.sqrt(hidden)) });
  tensor("expert_ids", "i32", [T, TOP_K]);
  tensor("expert_weights", "f32", [T, TOP_K]);
  nodes.push({
    op: "RouteTopK",
    inputs: ["post.normed", "router"],
    outputs: ["expert_ids", "expert_weights"],
    attributes: { top_k: TOP_K },
  });
  tensor("local_of", "i32", [NUM_EXPERTS], {
    fill: Int32Array.from({ length: NUM_EXPERTS }, (_, e) => (e % 12 < numLocal - 1 ? e % 12 : -1)),
  });
  workspace("experts.workspace", kernels.expertWorkspace(T, TOP_K, numLocal, hidden, inter));
  tensor("experts", "bf16", [T, hidden]);
  nodes.push({
    op: "ExpertFfn",
    inputs: [
      ...routed.slice(0, 2),
      "expert_ids",
      "expert_weights",
      "local_of",
      ...weights("gate_up", [numLocal], 2 * inter, hidden),
      ...weights("experts_down", [numLocal], hidden, inter),
      "experts.workspace",
    ],
    outputs: ["experts"],
    attributes: { shared_local: numLocal - 1 },
  });
  tensor("partials", "bf16", [1, T, hidden]);
  nodes.push({ op: "Reshape", inputs: ["experts"], outputs: ["partials"], reshape: [1, T, hidden] });
  addNorm("next", second, ["partials"]);
  return { tensors, nodes };
}
