import { writeFileSync } from "node:fs";
import path from "node:path";
import type { ModelConfig } from "../config.ts";
import { type WeightsFile, withWeightsFile } from "../graph/weights-file.ts";
import { head } from "./attention-graphs.ts";
import type { FfnWeights, Step3Weights } from "./weights.ts";

/** Where graphs go, and who is told of it, a layer at a time. */
export interface GraphTarget {
  readonly dir: string;
  readonly config: ModelConfig;
  readonly progress: (text: string) => void;
}

export const deviceLayerGraph = (layer: number) => `layer-${layer}-device.onnx`;
export const DEVICE_HEAD_GRAPH = "head.onnx";

/** One graph for each MoE layer, because dense ones are an attention actor's. */
export function writeMoeGraphs(
  { dir, config, progress }: GraphTarget,
  nameOf: (layer: number) => string,
  graphOf: (layer: number, file: WeightsFile) => Uint8Array,
): void {
  withWeightsFile(dir, (file) => {
    for (const [layer, kind] of config.layerKinds.entries()) {
      if (kind === "dense") continue;
      progress(`layer ${layer + 1} of ${config.numLayers}`);
      writeFileSync(path.join(dir, nameOf(layer)), graphOf(layer, file));
    }
  });
}

/** One graph for each layer's whole attention, with the layer's dense FFN if it has one, and the head's. */
export function writeDeviceAttention(
  { dir, config, progress }: GraphTarget,
  weights: Step3Weights,
  graphOf: (layer: number, dense: FfnWeights | undefined, file: WeightsFile) => Uint8Array,
): void {
  withWeightsFile(dir, (file) => {
    for (const [layer, kind] of config.layerKinds.entries()) {
      progress(`layer ${layer + 1} of ${config.numLayers}`);
      const dense = kind === "dense" ? weights.dense(layer) : undefined;
      writeFileSync(path.join(dir, deviceLayerGraph(layer)), graphOf(layer, dense, file));
    }
    writeFileSync(path.join(dir, DEVICE_HEAD_GRAPH), head(config, weights.head(), file));
  });
}
