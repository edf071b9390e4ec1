import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openGraph, type Place } from "../../models/kernels/check/runner.ts";
import { KernelSizes } from "../../models/kernels/sizes.ts";
import { haveAddon, runtime } from "../support/addon.ts";
import { buildTwin, findCudaHeaders } from "./twin/twin.ts";

type Shape = readonly [type: "f32" | "i32" | "u8" | "bf16" | "fp8-e4m3", dims: readonly number[]];

interface Node {
  readonly op: string;
  readonly inputs: Readonly<Record<string, Shape>>;
  readonly outputs: Readonly<Record<string, Shape>>;
  readonly attributes: Readonly<Record<string, number | string | { readonly float: number }>>;
}

const PAGE_BYTES = 65_536;
const NORM: Node = {
  op: "RmsNormQuantise",
  inputs: { x: ["bf16", [2, 512]], weight: ["bf16", [256]] },
  outputs: { data: ["fp8-e4m3", [2, 256]], scales: ["f32", [2, 2]] },
  attributes: { epsilon: { float: 1e-5 } },
};
const ROPE: Node = {
  op: "RopeAppend",
  inputs: {
    query: ["bf16", [2, 1024]],
    key_value: ["bf16", [2, 512]],
    cos_sin: ["f32", [64, 128, 2]],
    pool: ["u8", [2, PAGE_BYTES]],
    page_table: ["i32", [2, 1]],
    lengths: ["i32", [2]],
  },
  outputs: { rotated: ["u8", [2, 2048]] },
  attributes: { num_heads: 4, head_dim: 256, kv_type: "bf16" },
};
const DECODE: Node = {
  op: "MfaDecode",
  inputs: {
    rotated: ["u8", [2, 2048]],
    pool: ["u8", [2, PAGE_BYTES]],
    page_table: ["i32", [2, 1]],
    lengths: ["i32", [2]],
    workspace: ["u8", [1024]],
  },
  outputs: { data: ["fp8-e4m3", [2, 1024]], scales: ["f32", [8, 2]] },
  attributes: ROPE.attributes,
};
const CANDIDATES: Node = {
  op: "TopCandidates",
  inputs: { logits: ["bf16", [2, 64]], workspace: ["u8", [1024]] },
  outputs: { ids: ["i32", [2, 4]], values: ["f32", [2, 4]], log_sum: ["f32", [2]] },
  attributes: { num_candidates: 4 },
};
const FFN: Node = {
  op: "ExpertFfn",
  inputs: {
    data: ["fp8-e4m3", [1, 128]],
    scales: ["f32", [1, 1]],
    expert_ids: ["i32", [1, 1]],
    expert_weights: ["f32", [1, 1]],
    local_of: ["i32", [3]],
    gate_up: ["fp8-e4m3", [2, 2, 1, 128, 128]],
    gate_up_scales: ["f32", [2, 2, 1]],
    down: ["fp8-e4m3", [2, 1, 1, 128, 128]],
    down_scales: ["f32", [2, 1, 1]],
    workspace: ["u8", [4096]],
  },
  outputs: { y: ["bf16", [1, 128]] },
  attributes: {},
};

const withInputs = (node: Node, inputs: Node["inputs"]): Node => ({ ...node, inputs: { ...node.inputs, ...inputs } });
const withAttributes = (node: Node, attributes: Node["attributes"]): Node => ({
  ...node,
  attributes: { ...node.attributes, ...attributes },
});

const cudaHeaders = findCudaHeaders();

describe.skipIf(!(await haveAddon()) || cudaHeaders === undefined)("operators say why they do not compute", () => {
  let place: Place;

  beforeAll(() => {
    const folder = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    const library = buildTwin(folder, runtime?.headerFolder ?? "", cudaHeaders ?? "");
    place = { library, provider: "cpu", folder };
  }, 120_000);
  afterAll(() => rmSync(place.folder, { recursive: true }));

  /** Shapes are told to the operator only: a graph that knows them is checked by ONNX Runtime itself. */
  function run({ op, inputs, outputs, attributes }: Node): void {
    const session = openGraph(place, op, (graph) => {
      for (const [name, [type, dims]] of Object.entries(inputs)) {
        graph.input(
          name,
          type,
          dims.map((_, i) => `${name}_${i}`),
        );
      }
      graph.own(op, Object.keys(inputs), Object.keys(outputs), attributes);
      for (const [name, [type, dims]] of Object.entries(outputs)) {
        graph.output(
          name,
          type,
          dims.map((_, i) => `${name}_${i}`),
        );
      }
    });
    const tensors = (shapes: Node["inputs"]) =>
      Object.fromEntries(
        Object.entries(shapes).map(([name, [type, dims]]) => {
          const tensor = session.allocate(type, dims);
          tensor.fillWith(ZERO);
          return [name, tensor];
        }),
      );
    session.bind(tensors(inputs), tensors(outputs)).run();
  }
  const ZERO = new Uint8Array(1);

  it.each([NORM, ROPE, DECODE, CANDIDATES, FFN].map((node) => [node.op, node] as const))("%s computes", (_, node) => {
    expect(() => run(node)).not.toThrow();
  });

  it.each<[string, Node]>([
    ["x is [2, 512, 1], expected [T, S]", withInputs(NORM, { x: ["bf16", [2, 512, 1]] })],
    [
      "W/128 is no whole number with offset = 0, T = 2, S = 512, W = 200",
      withInputs(NORM, { weight: ["bf16", [200]] }),
    ],
    [
      "offset = 264: 256 columns from there, in rows of 512, do not lie within a row",
      withAttributes(NORM, { offset: 264 }),
    ],
    ["offset = -8", withAttributes(NORM, { offset: -8 })],
    ["or not at a multiple of 8", withAttributes(NORM, { offset: 3 })],
    ["query is [2, 1024], expected [T, num_heads*head_dim]", withAttributes(ROPE, { num_heads: 5 })],
    ["value_offset = 300", withAttributes(ROPE, { value_offset: 300 })],
    ['attribute kv_type is "f16", expected "e4m3" or "bf16"', withAttributes(ROPE, { kv_type: "f16" })],
    [`a page of pool has 100 bytes, expected ${PAGE_BYTES}`, withInputs(ROPE, { pool: ["u8", [2, 100]] })],
    ["page_table is [3, 1], expected [T, max_pages]", withInputs(ROPE, { page_table: ["i32", [3, 1]] })],
    ["lengths is [2, 1], expected [T] = [2]", withInputs(ROPE, { lengths: ["i32", [2, 1]] })],
    ["rotated is not what RopeAppend made", withInputs(DECODE, { rotated: ["u8", [2, 2047]] })],
    ["workspace has 63 bytes, 64 are needed", withInputs(DECODE, { workspace: ["u8", [63]] })],
    ["num_candidates is 65, expected 1 to 64", withAttributes(CANDIDATES, { num_candidates: 65 })],
    ["attribute vocab is 65, logits have 64 columns", withAttributes(CANDIDATES, { vocab: 65 })],
    ["num_candidates is 4, expected 1 to 3", withAttributes(CANDIDATES, { vocab: 3 })],
    ["shared_local is 2, expected -1 to 1", withAttributes(FFN, { shared_local: 2 })],
    ["down is [2, 1, 2, 128, 128], expected", withInputs(FFN, { down: ["fp8-e4m3", [2, 1, 2, 128, 128]] })],
    ["gate_up is [2, 2, 2, 128, 128], expected", withInputs(FFN, { gate_up: ["fp8-e4m3", [2, 2, 2, 128, 128]] })],
  ])("%s", (reason, node) => {
    const message = expect.stringContaining(reason);
    expect(() => run(node)).toThrow(expect.objectContaining({ code: "session-failed", message }));
    expect(() => run(node)).toThrow(
      expect.objectContaining({ message: expect.stringContaining(`rally.${node.op}: `) }),
    );
  });

  it("knows a page's size as the kernel does", () => {
    expect(new KernelSizes(place.library).kvPage("bf16", 256)).toBe(PAGE_BYTES);
  });
});
