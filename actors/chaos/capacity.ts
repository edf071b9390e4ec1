import type { DeploymentEvent } from "./chaos-target.ts";
import type { TargetSlot } from "./schedule.ts";

/**
 * The share of its time that the worst-hit group of actors was there: the attention actors are one group, the replicas of each
 * shard another. 1 if none was ever down.
 */
export function capacityAlive(
  slots: readonly TargetSlot[],
  events: readonly DeploymentEvent[],
  elapsedMs: number,
): number {
  const groups = new Map<string, TargetSlot[]>();
  for (const slot of slots) {
    if (slot.role === "client") continue;
    const key = slot.role === "expert" ? `expert ${slot.shard}` : slot.role;
    groups.set(key, [...(groups.get(key) ?? []), slot]);
  }
  const shares = [...groups.values()].map((members) => {
    const down = members.reduce((sum, { name }) => sum + downMs(name, events, elapsedMs), 0);
    return 1 - down / (members.length * Math.max(elapsedMs, 1));
  });
  // Who was always down has no capacity to normalise by.
  return Math.max(0.01, Math.min(1, ...shares));
}

function downMs(slot: string, events: readonly DeploymentEvent[], elapsedMs: number): number {
  let total = 0;
  let downSince: number | undefined;
  for (const { atMs, kind, source } of events) {
    if (source !== slot || atMs < 0 || atMs > elapsedMs) continue;
    if (kind === "down") downSince ??= atMs;
    if (kind === "ready" && downSince !== undefined) {
      total += atMs - downSince;
      downSince = undefined;
    }
  }
  return downSince === undefined ? total : total + elapsedMs - downSince;
}
