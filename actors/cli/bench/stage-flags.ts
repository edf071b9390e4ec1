import { integerFlag, listFlag, numberFlag } from "../flags.ts";

/** Flags of `rally bench --project`. */
export const STAGE_FLAGS = {
  project: listFlag("FILE", "project tokens/s per GPU of whole deployments from stage times in JSON"),
  "tpot-ms": numberFlag("MS", "with --project: at most this per token", { min: 1, max: 10_000 }, 50),
  servers: integerFlag("N", "with --project: at most this many of each kind", { min: 1, max: 64 }, 16),
};
