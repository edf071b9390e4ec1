import { Checkpoint } from "../checkpoint.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelFamily, ModelFiles } from "../family.ts";
import { sessionOpener } from "../open-session.ts";
import { ATTENTION_GRAPHS_VERSION, writeAttentionGraphs } from "./attention-graphs.ts";
import { Step3AttentionStages } from "./attention-stages.ts";
import { parseStep3Config, step3TextConfig } from "./config.ts";
import { openDeviceAttention, openDeviceFfn } from "./device-family.ts";
import { EmptyShard } from "./empty-shard.ts";
import { FFN_GRAPHS_VERSION, writeFfnGraphs } from "./ffn-graphs.ts";
import { Step3FfnShard } from "./ffn-shard.ts";
import { graphKey, graphs, partsOf } from "./graph-folder.ts";
import { SHARED_GRAPHS_VERSION, writeSharedGraphs } from "./shared-graphs.ts";
import { Step3SharedExperts } from "./shared-experts.ts";
import { Step3Weights } from "./weights.ts";

export const step3Family: ModelFamily = {
  name: "step3",

  matches: (json) => step3TextConfig(json) !== undefined,

  parse: ({ json, configFile }) => parseStep3Config(json, configFile).config,

  openAttentionStages(files, modelHash, options) {
    return withWeights(files, (config, weights) => {
      const onDevice = openDeviceAttention({ config, weights, modelHash, options });
      if (onDevice !== undefined) return onDevice;
      const key = graphKey("attention", modelHash, [ATTENTION_GRAPHS_VERSION]);
      const graphDir = graphs(key, options, (dir, progress) => writeAttentionGraphs(dir, config, weights, progress));
      const { numThreads, numThreadsAlone = numThreads } = options;
      const embedding = weights.embedding();
      const openSession = sessionOpener(options);
      return new Step3AttentionStages({ config, graphDir, embedding, numThreads, numThreadsAlone, openSession });
    });
  },

  openFfnShard(files, modelHash, spec, options) {
    if (EmptyShard.fits(spec)) return new EmptyShard(spec);
    return withWeights(files, (config, weights) => {
      const onDevice = openDeviceFfn({ config, weights, modelHash, options }, spec);
      if (onDevice !== undefined) return onDevice;
      const key = graphKey("ffn", modelHash, [FFN_GRAPHS_VERSION, ...partsOf(spec)]);
      const graphDir = graphs(key, options, (dir, progress) => writeFfnGraphs(dir, config, weights, spec, progress));
      const { numThreads } = options;
      return new Step3FfnShard({ config, spec, graphDir, numThreads, openSession: sessionOpener(options) });
    });
  },

  openSharedExperts(files, modelHash, options) {
    return withWeights(files, (config, weights) => {
      const key = graphKey("shared", modelHash, [SHARED_GRAPHS_VERSION]);
      const graphDir = graphs(key, options, (dir, progress) => writeSharedGraphs(dir, config, weights, progress));
      const { numThreads } = options;
      const openSession = sessionOpener({ ...options, provider: "cpu" });
      return new Step3SharedExperts({ config, graphDir, numThreads, openSession });
    });
  },
};

function withWeights<T>(files: ModelFiles, use: (config: ModelConfig, weights: Step3Weights) => T): T {
  const { config, weightBlock } = parseStep3Config(files.json, files.configFile);
  const checkpoint = new Checkpoint(files.modelDir, weightBlock);
  try {
    return use(config, new Step3Weights(checkpoint, config));
  } finally {
    checkpoint.close();
  }
}
