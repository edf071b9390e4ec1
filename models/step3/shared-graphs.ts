import type { ModelConfig } from "../config.ts";
import { OnnxGraph } from "../graph/onnx.ts";
import type { WeightsFile } from "../graph/weights-file.ts";
import { swiGlu } from "./swi-glu.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";
import { writeMoeGraphs } from "./write-graphs.ts";

/** Grows whenever the graphs below change, so that cached ones of an older writer are not used. */
export const SHARED_GRAPHS_VERSION = 1;

export const sharedGraph = (layer: number) => `layer-${layer}-shared.onnx`;

/** Writes the graphs of all shared experts into `dir`. */
export function writeSharedGraphs(
  dir: string,
  config: ModelConfig,
  weights: Step3Weights,
  progress: (text: string) => void,
): void {
  const told = (text: string) => progress(`writing shared experts' graphs, ${text}`);
  writeMoeGraphs({ dir, config, progress: told }, sharedGraph, (layer, file) =>
    shared(config, weights.shared(layer), file),
  );
}

/** residual + down( SiLU(gate x) ⊙ up x ) */
function shared({ hiddenSize }: ModelConfig, ffn: FfnWeights, file: WeightsFile): Uint8Array {
  const graph = new OnnxGraph("shared");
  graph.input("ffn_input", "f32", ["tokens", hiddenSize]);
  graph.input("residual", "f32", ["tokens", hiddenSize]);
  graph.node("Add", ["residual", swiGlu(graph, "ffn_input", ffn, hiddenSize, file)], ["output"]);
  graph.output("output", "f32", ["tokens", hiddenSize]);
  return graph.finish();
}
