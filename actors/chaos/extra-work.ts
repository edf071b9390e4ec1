import type { AttentionStats } from "../protocol/role.ts";
import type { ChaosTarget } from "./chaos-target.ts";
import type { ExtraWork } from "./result.ts";

type Sums = ReadonlyMap<string, ExtraWork>;

/** Each attention actor's sums since it started. */
export async function workSums(target: Pick<ChaosTarget, "stats">): Promise<Sums> {
  const attention = ((await target.stats()) ?? []).filter(
    (stats): stats is AttentionStats => stats.role === "attention",
  );
  return new Map(attention.map(({ id, retries, preemptions }) => [id, { resends: retries, preemptions }]));
}

/** Of actors that started in between, all. */
export function workBetween(before: Sums, after: Sums): ExtraWork {
  let [resends, preemptions] = [0, 0];
  for (const [id, sums] of after) {
    const earlier = before.get(id);
    resends += sums.resends - (earlier?.resends ?? 0);
    preemptions += sums.preemptions - (earlier?.preemptions ?? 0);
  }
  return { resends, preemptions };
}
