import type { ElementType } from "../../../../infra/native/elements.ts";
import type { OnnxGraph } from "../../../../models/graph/onnx.ts";

type Bytes = Uint8Array | Uint16Array | Int32Array | Float32Array;
type GraphType = Parameters<OnnxGraph["input"]>[1] & ElementType;

interface Input {
  readonly type: GraphType;
  readonly dims: readonly number[];
  /** Repeated through the tensor. */
  readonly fill: Bytes;
  readonly place: "device" | "host";
}

interface Output {
  readonly type: GraphType;
  readonly dims: readonly number[];
  /** The input whose memory it is written to. */
  readonly inPlace?: string;
}

interface Node {
  readonly domain: "own" | "contrib" | "node";
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, number | string | { readonly float: number }>>;
}

/** A graph to be timed: what it computes, and what its tensors are filled with. `units` of work are in it, all alike. */
export class BenchGraph {
  readonly name: string;
  readonly inputs = new Map<string, Input>();
  readonly outputs = new Map<string, Output>();
  readonly #nodes: Node[] = [];
  units = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** `place` is `host` for what an operator wants to know before it starts. */
  input(name: string, type: GraphType, dims: readonly number[], fill: Bytes, place: Input["place"] = "device"): string {
    this.inputs.set(name, { type, dims, fill, place });
    return name;
  }

  output(name: string, type: GraphType, dims: readonly number[], inPlace?: string): string {
    this.outputs.set(name, { type, dims, ...(inPlace !== undefined && { inPlace }) });
    return name;
  }

  own(op: string, inputs: readonly string[], outputs: readonly string[], attributes: Node["attributes"] = {}): void {
    this.#nodes.push({ domain: "own", op, inputs, outputs, attributes });
  }

  /** An operator of ONNX Runtime's own: `contrib` of its own domain, `node` of the standard. */
  stock(
    domain: "contrib" | "node",
    op: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Node["attributes"] = {},
  ): void {
    this.#nodes.push({ domain, op, inputs, outputs, attributes });
  }

  write(graph: OnnxGraph): void {
    for (const [name, { type, dims }] of this.inputs) graph.input(name, type, dims);
    for (const { domain, op, inputs, outputs, attributes } of this.#nodes) {
      graph[domain](op, inputs, outputs, attributes);
    }
    for (const [name, { type, dims }] of this.outputs) graph.output(name, type, dims);
  }
}
