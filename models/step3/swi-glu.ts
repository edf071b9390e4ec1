import type { OnnxGraph } from "../graph/onnx.ts";
import type { WeightsFile } from "../graph/weights-file.ts";
import type { FfnWeights } from "./weights.ts";

/** down( SiLU(gate x) ⊙ up x ); returns the output's name, `<prefix>_output`. */
export function swiGlu(
  graph: OnnxGraph,
  input: string, // [rows, hiddenSize]
  ffn: FfnWeights,
  hiddenSize: number,
  file: WeightsFile,
  prefix = input,
): string {
  const { dim } = ffn;
  const name = (part: string) => `${prefix}_${part}`;
  // Gate and up stay two matrices: one of both would need its halves copied apart.
  graph.weight(name("gate"), "f32", [hiddenSize, dim], file.appendTransposed(ffn.gate, hiddenSize));
  graph.weight(name("up"), "f32", [hiddenSize, dim], file.appendTransposed(ffn.up, hiddenSize));
  graph.weight(name("down"), "f32", [dim, hiddenSize], file.appendTransposed(ffn.down, dim));
  graph.node("MatMul", [input, name("gate")], [name("gated")]);
  graph.node("MatMul", [input, name("up")], [name("raised")]);
  // QuickGelu with alpha 1 is SiLU in one node.
  graph.contrib("QuickGelu", [name("gated")], [name("activated")], { alpha: { float: 1 } });
  graph.node("Mul", [name("activated"), name("raised")], [name("product")]);
  return graph.node("MatMul", [name("product"), name("down")], [name("output")]);
}
