import type { NativeSession } from "../../../infra/native/native-session.ts";
import type { NativeTensor } from "../../../infra/native/native-tensor.ts";
import type { OnnxGraph } from "../../graph/onnx.ts";
import { KernelSizes } from "../sizes.ts";
import { poison } from "./case.ts";
import { type Chain, type ChainNode, type ChainSizes, layerChain } from "./chain.ts";
import type { Verdict } from "./judge.ts";
import { fromBf16 } from "./numbers.ts";
import { openGraph, type Place } from "./runner.ts";

/**
 * A layer's operators in one graph, replayed, against the same one by one, each waited for: the same bits in every tensor. Kernels
 * that start before the one before them has ended must not read too early.
 */
export function runChainCheck(sizes: ChainSizes, place: Place, numRounds: number): Verdict {
  const chain = layerChain(sizes, new KernelSizes(place.library));
  const written = chain.nodes.flatMap(({ outputs }) => outputs);
  const session = openGraph(place, "chain", (graph) => fillGraph(graph, chain, chain.nodes), place.provider === "cuda");
  const tensors = allocate(session, chain);
  try {
    for (const node of chain.nodes) runAlone(node, chain, place, tensors);
    const expected = new Map(written.map((name) => [name, read(tensors, name)]));
    const sum = fromBf16(new Uint16Array(read(tensors, "next.sum").buffer));
    if (!sum.every(Number.isFinite)) return { error: Infinity, mismatch: "next.sum has values that are not finite" };
    const inputs = bound(
      tensors,
      [...chain.tensors.keys()].filter((name) => !written.includes(name)),
    );
    const binding = session.bind(inputs, bound(tensors, written));
    for (let round = 0; round < numRounds; round++) {
      for (const name of written) tensorOf(tensors, name).fillWith(poison(tensorOf(tensors, name).type, 1));
      binding.run();
      const different = [...expected].flatMap(([name, bytes]) => {
        const at = firstDifference(read(tensors, name), bytes);
        return at < 0 ? [] : [`${name} from byte ${at} on`];
      });
      if (different.length > 0)
        return { error: Infinity, mismatch: `round ${round} differs in ${different.join(", ")}` };
    }
    return { error: 0 };
  } finally {
    for (const tensor of new Set(tensors.values())) tensor.release();
    session.release();
  }
}

type Tensors = ReadonlyMap<string, NativeTensor>;

/** Tensors that lie in another's memory are that other. */
function allocate(session: NativeSession, { tensors }: Chain): Tensors {
  const made = new Map<string, NativeTensor>();
  for (const [name, { type, dims, fill, alias }] of tensors) {
    const tensor = alias === undefined ? session.allocate(type, dims) : tensorOf(made, alias);
    made.set(name, tensor);
    if (fill !== undefined) tensor.fillWith(fill);
  }
  return made;
}

function runAlone(node: ChainNode, chain: Chain, place: Place, tensors: Tensors): void {
  const session = openGraph(place, `alone-${node.op}`, (graph) => fillGraph(graph, chain, [node]));
  try {
    const binding = session.bind(bound(tensors, node.inputs), bound(tensors, node.outputs));
    const { tensor: name = "", values = [] } = node.warmUp ?? {};
    for (const value of values) {
      tensorOf(tensors, name).upload(value);
      binding.run();
    }
    const own = chain.tensors.get(name)?.fill;
    if (own !== undefined) tensorOf(tensors, name).fillWith(own);
    binding.run();
  } finally {
    session.release();
  }
}

/** All that nodes write is an output, all that they read and do not write an input. */
function fillGraph(graph: OnnxGraph, { tensors }: Chain, nodes: readonly ChainNode[]): void {
  const written = new Set(nodes.flatMap(({ outputs }) => outputs));
  const asked = new Set(nodes.flatMap(({ inputs }) => inputs));
  const shape = (name: string) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`broken invariant: there is a tensor ${name}`);
    return [tensor.type, tensor.dims] as const;
  };
  for (const name of asked) if (!written.has(name)) graph.input(name, ...shape(name));
  for (const { op, inputs, outputs, attributes, reshape } of nodes) {
    if (reshape === undefined) graph.own(op, inputs, outputs, attributes);
    else graph.node(op, [...inputs, graph.integers(`${outputs[0]}.shape`, reshape)], outputs);
  }
  for (const name of written) graph.output(name, ...shape(name));
}

function bound(tensors: Tensors, names: readonly string[]): Record<string, NativeTensor> {
  return Object.fromEntries(names.map((name) => [name, tensorOf(tensors, name)]));
}

function tensorOf(tensors: Tensors, name: string): NativeTensor {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`broken invariant: there is a tensor ${name}`);
  return tensor;
}

const ELEMENT_BYTES = { f32: 4, i32: 4, i64: 8, bf16: 2, f16: 2, "fp8-e4m3": 1, u8: 1, i8: 1 } as const;

function read(tensors: Tensors, name: string): Uint8Array {
  const tensor = tensorOf(tensors, name);
  const bytes = tensor.dims.reduce((size, dim) => size * dim, ELEMENT_BYTES[tensor.type]);
  return tensor.download(new Uint8Array(bytes));
}

function firstDifference(found: Uint8Array, expected: Uint8Array): number {
  if (Buffer.compare(found, expected) === 0) return -1;
  return found.findIndex((byte, i) => byte !== expected[i]);
}
