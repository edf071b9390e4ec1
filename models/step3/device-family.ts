import { assert } from "../../infra/errors.ts";
import type { ModelConfig } from "../config.ts";
import type { OpenOptions } from "../family.ts";
import { deviceOpener } from "../open-session.ts";
import type { AttentionStages, FfnShard, ShardSpec } from "../stages.ts";
import { DeviceAttentionStages, f32Layout } from "./device-attention-stages.ts";
import { DeviceFfnShard } from "./device-ffn-shard.ts";
import { DEVICE_GRAPHS_VERSION, writeDeviceAttentionGraphs, writeDeviceFfnGraphs } from "./device-graphs.ts";
import { graphKey, graphs, partsOf } from "./graph-folder.ts";
import { HopperFfnShard } from "./hopper-ffn-shard.ts";
import {
  fitsHopper,
  HOPPER_GRAPHS_VERSION,
  writeHopperAttentionGraphs,
  writeHopperFfnGraphs,
} from "./hopper-graphs.ts";
import { expertWorkspace, hopperLayout } from "./hopper-layout.ts";
import type { Step3Weights } from "./weights.ts";

export interface DeviceModel {
  readonly config: ModelConfig;
  readonly weights: Step3Weights;
  readonly modelHash: string;
  readonly options: OpenOptions;
}

/** In FP8 where the model has the kernels' dimensions, else in f32; undefined where nothing can stay on a device. */
export function openDeviceAttention(model: DeviceModel): AttentionStages | undefined {
  const { config, weights, modelHash, options } = model;
  const { kvRoom = { numTokens: config.contextLength, numSequences: 1 } } = options;
  const hopper = fitsHopper(config) ? deviceOpener(options, "hopper") : undefined;
  if (hopper !== undefined) {
    const { open, library } = hopper;
    assert(library !== undefined, "the kernels have a library");
    const key = graphKey("hopper-attention", modelHash, [HOPPER_GRAPHS_VERSION]);
    const graphDir = graphs(key, options, (dir, told) => writeHopperAttentionGraphs(dir, config, weights, told));
    const layout = hopperLayout(config, library);
    return new DeviceAttentionStages({ config, graphDir, embedding: weights.embedding(), open, layout, kvRoom });
  }
  const device = deviceOpener(options, "f32");
  if (device === undefined) return undefined;
  const key = graphKey("device-attention", modelHash, [DEVICE_GRAPHS_VERSION]);
  const graphDir = graphs(key, options, (dir, told) => writeDeviceAttentionGraphs(dir, config, weights, told));
  const [embedding, layout] = [weights.embedding(), f32Layout(config)];
  return new DeviceAttentionStages({ config, graphDir, embedding, open: device.open, layout, kvRoom });
}

export function openDeviceFfn(model: DeviceModel, spec: ShardSpec): FfnShard | undefined {
  const { config, weights, modelHash, options } = model;
  const parts = partsOf(spec);
  const hopper = fitsHopper(config) ? deviceOpener(options, "hopper") : undefined;
  if (hopper !== undefined) {
    const { open, library } = hopper;
    assert(library !== undefined, "the kernels have a library");
    const key = graphKey("hopper-ffn", modelHash, [HOPPER_GRAPHS_VERSION, ...parts]);
    const graphDir = graphs(key, options, (dir, told) => writeHopperFfnGraphs(dir, config, weights, spec, told));
    const workspace = expertWorkspace(config, spec, library);
    return new HopperFfnShard({ config, spec, graphDir, open, workspace });
  }
  const device = deviceOpener(options);
  if (device === undefined) return undefined;
  const key = graphKey("device-ffn", modelHash, [DEVICE_GRAPHS_VERSION, ...parts]);
  const graphDir = graphs(key, options, (dir, told) => writeDeviceFfnGraphs(dir, config, weights, spec, told));
  return new DeviceFfnShard({ config, spec, graphDir, open: device.open });
}
