import type { NativeSession } from "../../../infra/native/native-session.ts";
import type { NativeTensor } from "../../../infra/native/native-tensor.ts";
import type { OnnxGraph } from "../../graph/onnx.ts";
import { KernelSizes, type KvType } from "../sizes.ts";
import { type Data, type HostTensor, poison } from "./case.ts";
import { all, judge, judgeRms, rms, type Verdict } from "./judge.ts";
import { fromBf16, fromQuantised, Random } from "./numbers.ts";
import { attend, rope } from "./reference.ts";
import { finder, openGraph, type Place } from "./runner.ts";

/** What the attention kernels are built for. */
const NUM_HEADS = 64;
const HEAD_DIM = 256;
const PAGE_TOKENS = 64;
const MAX_PAGES = 5;
const NUM_PAGES = 16;
/** Key and value lie in a wider matrix, as q_down's product with them has it. */
const STRIDE = 2 * HEAD_DIM + 128;
const KEY_OFFSET = 128;

export interface AttentionCheck {
  readonly kvType: KvType;
  /** One token of each sequence a step, until each has its length. */
  readonly lengths: readonly number[];
  /** Judged after these numbers of steps; the last is the longest length. */
  readonly judgedAfter: readonly number[];
}

/**
 * RopeAppend and MfaDecode in one graph, step by step as a deployment decodes: tokens are appended in place, lengths grow from run to
 * run, pages of a sequence lie anywhere. A sequence that is finished has length 0.
 */
export function runAttentionCheck(check: AttentionCheck, place: Place, cudaGraph: boolean): Verdict {
  const { kvType, lengths, judgedAfter } = check;
  const numSequences = lengths.length;
  const width = NUM_HEADS * HEAD_DIM;
  const random = new Random(7);
  const sizes = new KernelSizes(place.library);
  const shapes = inputShapes(numSequences, sizes, kvType);
  const session = openGraph(place, `attention-${kvType}`, (graph) => fillGraph(graph, shapes, kvType), cudaGraph);
  const inputs = allocate(session, shapes);
  const outputs = allocate(session, {
    data: ["fp8-e4m3", [numSequences, NUM_HEADS * HEAD_DIM]],
    scales: ["f32", [(NUM_HEADS * HEAD_DIM) / 128, numSequences]],
  });
  const binding = session.bind(Object.fromEntries(inputs), Object.fromEntries(outputs));
  try {
    const upload = (name: string, data: Data) => inputs.get(name)?.upload(data);
    const cosSin = angles();
    upload("cos_sin", cosSin);
    upload("page_table", pageTable(lengths));
    // Whatever pages held before must not matter; workspaces are zeroed once.
    inputs.get("pool")?.fillWith(random.e4m3(4099));
    inputs.get("workspace")?.fillWith(new Uint8Array(1));
    const cache = lengths.map(() => ({ keys: [] as Float64Array[], values: [] as Float64Array[] }));
    let verdict: Verdict = { error: 0 };
    const numSteps = Math.max(...lengths);
    let query: Uint16Array = new Uint16Array(numSequences * width);
    for (let step = 1; step <= numSteps; step++) {
      // Of the other steps only what they append matters.
      if (judgedAfter.includes(step)) query = random.bf16(numSequences * width);
      const keyValue = random.bf16(numSequences * STRIDE, 1);
      const now = Int32Array.from(lengths, (length) => (step <= length ? step : 0));
      upload("query", query);
      upload("key_value", keyValue);
      upload("lengths", now);
      for (const tensor of outputs.values()) tensor.fillWith(poison(tensor.type, 1));
      binding.run();
      // The run that captures a CUDA graph appends its tokens more than once, each time the same.
      now.forEach((length, s) => {
        if (length === 0) return;
        const row = fromBf16(keyValue.subarray(s * STRIDE, (s + 1) * STRIDE));
        cache[s]?.keys.push(rope(row.subarray(KEY_OFFSET, KEY_OFFSET + HEAD_DIM), length - 1, HEAD_DIM, cosSin));
        cache[s]?.values.push(row.slice(KEY_OFFSET + HEAD_DIM, KEY_OFFSET + 2 * HEAD_DIM));
      });
      if (!judgedAfter.includes(step)) continue;
      const found = finder(outputs);
      const heads = fromQuantised(found.e4m3("data"), found.f32("scales"), numSequences);
      const queries = fromBf16(query);
      const verdicts = lengths.map((_, s) => {
        const { keys = [], values = [] } = cache[s] ?? {};
        const rotated = rope(queries.subarray(s * width, (s + 1) * width), step - 1, HEAD_DIM, cosSin);
        const expected = now[s] === 0 ? new Float64Array(width) : attend(rotated, keys, values, HEAD_DIM);
        const name = `step ${step}, sequence ${s}: heads`;
        const own = heads.subarray(s * width, (s + 1) * width);
        const { worst, usual } = TOLERANCES[kvType];
        const size = rms(expected);
        return all(
          judge(name, own, expected, { relative: 0.07, absolute: worst * size + 1e-6 }),
          judgeRms(name, own, expected, usual * size + 1e-6),
        );
      });
      verdict = all(verdict, ...verdicts);
      if (verdict.mismatch !== undefined) break;
    }
    return verdict;
  } finally {
    binding.release();
    for (const tensor of [...inputs.values(), ...outputs.values()]) tensor.release();
    session.release();
  }
}

/**
 * How far the worst of all heads' values, and the usual one, may be off, in parts of the usual value. Queries, keys, values and
 * probabilities are all narrowed to e4m3 where the cache is; the heads always are.
 */
const TOLERANCES = { e4m3: { worst: 0.4, usual: 0.1 }, bf16: { worst: 0.05, usual: 0.035 } } as const;

type Shapes = Readonly<Record<string, readonly [type: HostTensor["type"], dims: readonly number[]]>>;

function inputShapes(numSequences: number, sizes: KernelSizes, kvType: KvType): Shapes {
  return {
    query: ["bf16", [numSequences, NUM_HEADS * HEAD_DIM]],
    key_value: ["bf16", [numSequences, STRIDE]],
    cos_sin: ["f32", [MAX_PAGES * PAGE_TOKENS, HEAD_DIM / 2, 2]],
    pool: ["u8", [NUM_PAGES, sizes.kvPage(kvType, HEAD_DIM)]],
    page_table: ["i32", [numSequences, MAX_PAGES]],
    lengths: ["i32", [numSequences]],
    workspace: ["u8", [sizes.mfaWorkspace(numSequences, MAX_PAGES, NUM_HEADS, HEAD_DIM)]],
  };
}

function fillGraph(graph: OnnxGraph, shapes: Shapes, kvType: KvType): void {
  for (const [name, [type, dims]] of Object.entries(shapes)) graph.input(name, type, dims);
  const attributes = { num_heads: NUM_HEADS, head_dim: HEAD_DIM, kv_type: kvType };
  const cache = ["pool", "page_table", "lengths"];
  graph.own("RopeAppend", ["query", "key_value", "cos_sin", ...cache], ["rotated"], {
    ...attributes,
    key_offset: KEY_OFFSET,
    value_offset: KEY_OFFSET + HEAD_DIM,
  });
  graph.own("MfaDecode", ["rotated", ...cache, "workspace"], ["data", "scales"], attributes);
  graph.output("data", "fp8-e4m3", shapes["query"]?.[1] ?? []);
  graph.output("scales", "f32", [(NUM_HEADS * HEAD_DIM) / 128, shapes["lengths"]?.[1][0] ?? 0]);
}

function allocate(session: NativeSession, shapes: Shapes): Map<string, NativeTensor> {
  return new Map(Object.entries(shapes).map(([name, [type, dims]]) => [name, session.allocate(type, dims)]));
}

/** [positions, HEAD_DIM / 2, 2] */
function angles(): Float32Array {
  const half = HEAD_DIM / 2;
  return Float32Array.from({ length: MAX_PAGES * PAGE_TOKENS * half * 2 }, (_, i) => {
    const [position, dim] = [Math.floor(i / 2 / half), Math.floor(i / 2) % half];
    const angle = position * 10_000 ** (-dim / half);
    return i % 2 === 0 ? Math.cos(angle) : Math.sin(angle);
  });
}

/** Pages are dealt from the last on; what a sequence does not need is a page that is not there. */
function pageTable(lengths: readonly number[]): Int32Array {
  let next = NUM_PAGES;
  return Int32Array.from(
    lengths.flatMap((length) =>
      Array.from({ length: MAX_PAGES }, (_, page) => (page * PAGE_TOKENS < length ? --next : -1)),
    ),
  );
}
