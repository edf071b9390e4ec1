/** More would only cut the batches smaller. */
const MOST = 4;

/**
 * Micro-batches that "auto" may have in flight at most. The rule that derives their number (`EngineMeter.microBatches`) takes
 * attention and experts to compute on machines of their own. Where they share the cores of one host, two sides at work need at
 * least two cores for each micro-batch; with fewer, overlap gains nothing and smaller batches cost more.
 */
export function mostMicroBatches(host: { readonly numCores: number; readonly isShared: boolean }): number {
  return host.isShared ? Math.max(1, Math.min(MOST, Math.floor(host.numCores / 2))) : MOST;
}
