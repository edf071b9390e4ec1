import { choiceFlag, integerFlag, integersFlag, listFlag, numberFlag, textFlag } from "../flags.ts";

/** Flags of `rally bench --stage` and `rally bench --project`. */
export const STAGE_FLAGS = {
  stage: textFlag("attention|ffn", "measure one layer's stage on the GPU instead of a deployment"),
  config: choiceFlag(["step3"], "with --stage: whose dimensions; weights are random", "step3"),
  batch: integersFlag("N,...", "with --stage: sequences of a micro-batch on this GPU (128)", { min: 1, max: 256 }),
  context: integersFlag("N,...", "with --stage attention: tokens of each sequence (4096)", { min: 1, max: 65_536 }),
  kv: choiceFlag(["fp8", "bf16"], "with --stage attention: what keys and values are stored as", "fp8"),
  routing: choiceFlag(["balanced", "skewed"], "with --stage ffn: how tokens spread over the experts", "balanced"),
  save: textFlag("FILE", "with --stage: write what --json prints there too, for --project"),
  torch: textFlag("FILE", "with --stage: figures of test/bench/gpu/torch_stages.py to set beside"),
  project: listFlag("FILE", "project tokens/s per GPU of whole deployments from stage times in JSON"),
  "tpot-ms": numberFlag("MS", "with --project: at most this per token", { min: 1, max: 10_000 }, 50),
  "mla-tflops": integerFlag("N", "with --project: DeepSeek-V3 with a decode attention of this rate, too", {
    min: 1,
    max: 2000,
  }),
  servers: integerFlag("N", "with --project: at most this many of each kind", { min: 1, max: 64 }, 16),
};
