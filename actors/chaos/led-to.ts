import type { DeploymentEvent } from "./chaos-target.ts";
import type { InjectedFault } from "./injected.ts";
import type { CheckedLog } from "./oracle.ts";
import type { RequestRecord } from "./request-record.ts";
import type { Finding } from "./result.ts";

/** Long silences of a stream are part of its story. */
const NOTABLE_GAP_MS = 500;
const BEFORE_MS = 2_000;
const MAX_LINES = 60;

/** The story of a request: its own, the faults and the deployment's events of its time, in order. */
export function whatLedTo(
  record: RequestRecord,
  logged: CheckedLog,
  { injected, events }: { readonly injected: readonly InjectedFault[]; readonly events: readonly DeploymentEvent[] },
): Finding["led"] {
  const { startedMs, endedMs = Infinity, arrivals } = record;
  const isOfItsTime = (from: number, to = from) => to >= startedMs - BEFORE_MS && from <= endedMs;
  const lines = [{ atMs: startedMs, text: "the client sends it" }];
  const [first] = arrivals;
  if (first !== undefined) lines.push({ atMs: first, text: "first token" });
  for (const [i, at] of arrivals.entries()) {
    const before = arrivals[i - 1];
    if (before !== undefined && at - before >= NOTABLE_GAP_MS)
      lines.push({ atMs: at, text: `token ${i}, after ${Math.round(at - before)} ms without any` });
  }
  for (const { owner, from, to } of logged.owners) {
    lines.push({ atMs: arrivals[from] ?? startedMs, text: `${owner} writes tokens ${from} to ${to - 1}` });
  }
  if (record.endedMs !== undefined) {
    lines.push({
      atMs: record.endedMs,
      text: `the client sees its ending: ${record.endingText ?? record.ending ?? ""}`,
    });
  }
  for (const { kind, target, struckMs, healedMs, skipped } of injected) {
    if (skipped !== undefined || !isOfItsTime(struckMs, healedMs)) continue;
    lines.push({ atMs: struckMs, text: `fault: ${kind} ${target}` });
    if (healedMs !== undefined && healedMs - struckMs >= 1)
      lines.push({ atMs: healedMs, text: `over: ${kind} ${target}` });
  }
  for (const { atMs, source, text } of events) {
    if (isOfItsTime(atMs)) lines.push({ atMs, text: text.startsWith(source) ? text : `${source}: ${text}` });
  }
  return lines.sort((a, b) => a.atMs - b.atMs).slice(0, MAX_LINES);
}
