/** More would only cut the batches smaller. */
const MOST = 4;

/** Where an attention actor and its experts compute. */
export interface Cores {
  readonly numCores: number;
  /** Whether the experts have these cores, too. */
  readonly isShared: boolean;
  /** Expert actors that compute at the same time. */
  readonly numShards: number;
}

/**
 * Micro-batches that "auto" may have in flight at most. The rule that derives their number (`EngineMeter.microBatches`) takes
 * attention and experts to compute on machines of their own. Where they share the cores of one host, two are of use if attention and
 * every shard have a core each, and more if each of them has two; with fewer, overlap gains nothing and smaller batches cost more.
 */
export function mostMicroBatches({ numCores, isShared, numShards }: Cores): number {
  if (!isShared) return MOST;
  const least = numCores > numShards ? 2 : 1;
  return Math.max(least, Math.min(MOST, Math.floor(numCores / 2)));
}
