import type { AttentionStats, ExpertStats, RoleStats } from "../../protocol/role.ts";

/** Where a deployment's time went between two readings of its statistics. Shares are of wall time, 0 … 1. */
export interface Shares {
  /** Mean over the actors of that role. */
  readonly attentionBusy: number;
  readonly expertBusy: number;
  /** Work under way and nothing to compute, at the attention actors. */
  readonly bubble: number;
  /** State machines, of the attention actors' wall time. */
  readonly machines: number;
  readonly bytesPerHop: number;
  /** Round trip less the expert's own waiting and computing. */
  readonly wireMsPerHop: number;
  /** Batches that one run of an expert's graph served. */
  readonly batchesPerRun: number;
  readonly decodeTokensPerPass: number;
  readonly microBatches: number;
  readonly retries: number;
  readonly memoryMiB: Readonly<Record<string, number>>;
}

export function sharesBetween(before: readonly RoleStats[], after: readonly RoleStats[]): Shares {
  const pairs = after.flatMap((end) => {
    const start = before.find(({ id }) => id === end.id);
    return start === undefined ? [] : [[start, end] as const];
  });
  const attention = differences<AttentionStats>("attention", pairs);
  const experts = differences<ExpertStats>("expert", pairs);
  const hops = attention.sum("hops");
  return {
    attentionBusy: attention.sum("busyMs") / attention.sum("elapsedMs"),
    expertBusy: experts.sum("busyMs") / experts.sum("elapsedMs"),
    bubble: attention.sum("bubbleMs") / attention.sum("elapsedMs"),
    machines: attention.sum("machineMs") / attention.sum("elapsedMs"),
    bytesPerHop: attention.sum("hopBytes") / hops,
    wireMsPerHop: attention.sum("hopWireMs") / hops,
    batchesPerRun: experts.sum("batches") / experts.sum("runs"),
    decodeTokensPerPass: attention.sum("decodeTokens") / attention.sum("passes"),
    microBatches: Math.max(...after.map((stats) => (stats.role === "attention" ? stats.microBatches : 0))),
    retries: attention.sum("retries"),
    memoryMiB: Object.fromEntries(after.map(({ id, rssBytes }) => [withoutSuffix(id), Math.round(rssBytes / 2 ** 20)])),
  };
}

function differences<S extends RoleStats>(role: S["role"], pairs: readonly (readonly [RoleStats, RoleStats])[]) {
  const ofRole = pairs.filter(([, end]) => end.role === role) as unknown as readonly (readonly [S, S])[];
  return {
    sum: (field: NumericField<S>): number =>
      ofRole.reduce((sum, [start, end]) => sum + (Number(end[field]) - Number(start[field])), 0),
  };
}

type NumericField<S> = { [K in keyof S]: S[K] extends number ? K : never }[keyof S];

/** `attention-0-1a2b3c4d` is `attention-0` to a reader. */
function withoutSuffix(id: string): string {
  return id.replace(/-[0-9a-f]{8}$/, "");
}
