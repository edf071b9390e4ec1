import { createHash } from "node:crypto";
import { Checkpoint } from "../checkpoint.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily, ModelFiles, OpenOptions } from "../family.ts";
import { cachedGraphs, defaultCacheDir } from "../graph/cache.ts";
import { deviceOpener, sessionOpener } from "../open-session.ts";
import { ATTENTION_GRAPHS_VERSION, writeAttentionGraphs } from "./attention-graphs.ts";
import { Step3AttentionStages } from "./attention-stages.ts";
import { parseStep3Config, step3TextConfig } from "./config.ts";
import { DeviceAttentionStages } from "./device-attention-stages.ts";
import { DeviceFfnShard } from "./device-ffn-shard.ts";
import { DEVICE_GRAPHS_VERSION, writeDeviceAttentionGraphs, writeDeviceFfnGraphs } from "./device-graphs.ts";
import { FFN_GRAPHS_VERSION, writeFfnGraphs } from "./ffn-graphs.ts";
import { Step3FfnShard } from "./ffn-shard.ts";
import { Step3Weights } from "./weights.ts";

export const step3Family: ModelFamily = {
  name: "step3",

  matches: (json) => step3TextConfig(json) !== undefined,

  parse: ({ json, configFile }) => parseStep3Config(json, configFile).config,

  openAttentionStages(files, modelHash, options) {
    return withWeights(files, (config, weights) => {
      const open = deviceOpener(options, { kernels: true });
      if (open !== undefined) {
        const key = graphKey("device-attention", modelHash, [DEVICE_GRAPHS_VERSION]);
        const write = (dir: string, progress: Progress) => writeDeviceAttentionGraphs(dir, config, weights, progress);
        const { kvRoom = { numTokens: config.contextLength, numSequences: 1 } } = options;
        const graphDir = graphs(key, options, write);
        return new DeviceAttentionStages({ config, graphDir, embedding: weights.embedding(), open, kvRoom });
      }
      const key = graphKey("attention", modelHash, [ATTENTION_GRAPHS_VERSION]);
      const graphDir = graphs(key, options, (dir, progress) => writeAttentionGraphs(dir, config, weights, progress));
      const { numThreads } = options;
      const embedding = weights.embedding();
      return new Step3AttentionStages({ config, graphDir, embedding, numThreads, openSession: sessionOpener(options) });
    });
  },

  openFfnShard(files, modelHash, spec, options) {
    return withWeights(files, (config, weights) => {
      const parts = [spec.shard, spec.numShards, spec.experts];
      const open = deviceOpener(options, { kernels: false });
      if (open !== undefined) {
        const key = graphKey("device-ffn", modelHash, [DEVICE_GRAPHS_VERSION, ...parts]);
        const write = (dir: string, progress: Progress) => writeDeviceFfnGraphs(dir, config, weights, spec, progress);
        return new DeviceFfnShard({ config, spec, graphDir: graphs(key, options, write), open });
      }
      const key = graphKey("ffn", modelHash, [FFN_GRAPHS_VERSION, ...parts]);
      const graphDir = graphs(key, options, (dir, progress) => writeFfnGraphs(dir, config, weights, spec, progress));
      const { numThreads } = options;
      return new Step3FfnShard({ config, spec, graphDir, numThreads, openSession: sessionOpener(options) });
    });
  },
};

type Progress = (text: string) => void;

function withWeights<T>(files: ModelFiles, use: (config: ModelConfig, weights: Step3Weights) => T): T {
  const { config, weightBlock } = parseStep3Config(files.json, files.configFile);
  const checkpoint = new Checkpoint(files.modelDir, weightBlock);
  try {
    return use(config, new Step3Weights(checkpoint, config));
  } finally {
    checkpoint.close();
  }
}

function graphs(
  key: string,
  { cacheDir = defaultCacheDir(), progress = () => undefined }: OpenOptions,
  build: (dir: string, progress: Progress) => void,
): string {
  return cachedGraphs(cacheDir, key, (dir) => build(dir, progress));
}

function graphKey(role: string, modelHash: string, parts: readonly unknown[]): string {
  const hash = createHash("sha256").update(JSON.stringify([modelHash, ...parts]));
  return `step3-${role}-${hash.digest("hex").slice(0, 24)}`;
}
