import { createHash } from "node:crypto";
import type { OpenOptions } from "../family.ts";
import type { ShardSpec } from "../stages.ts";
import { cachedGraphs, defaultCacheDir } from "../graph/cache.ts";

/** The folder of the graphs that `key` names, in the cache; `build` writes them if they are not there. */
export function graphs(
  key: string,
  { cacheDir = defaultCacheDir(), progress = () => undefined }: OpenOptions,
  build: (dir: string, progress: (text: string) => void) => void,
): string {
  return cachedGraphs(cacheDir, key, (dir) => build(dir, progress));
}

/** What is in the graphs of one shard. */
export function partsOf({ shard, numShards, experts, withoutShared = false }: ShardSpec): readonly unknown[] {
  return [shard, numShards, experts, ...(withoutShared ? ["without shared"] : [])];
}

/** Names a role's graphs by the model and by whatever else decides what is in them. */
export function graphKey(role: string, modelHash: string, parts: readonly unknown[]): string {
  const hash = createHash("sha256").update(JSON.stringify([modelHash, ...parts]));
  return `step3-${role}-${hash.digest("hex").slice(0, 24)}`;
}
