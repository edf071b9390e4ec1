import type { InjectedFault } from "./injected.ts";
import type { RequestRecord } from "./request-record.ts";
import { type Stall, stalledMs } from "./stall-watch.ts";

/** How one fault was felt. Milliseconds. */
export interface Recovery {
  readonly faultId: number;
  /** Streams that had begun and not ended when it struck. */
  readonly numLive: number;
  /** The longest gap between two tokens of any of them, from the strike until a moment after its cause was over. */
  readonly longestGapMs: number;
  /** Until each of them had its next token. */
  readonly allMovedMs: number;
}

/** Effects come after causes: gaps that begin so soon after the end of a fault are still its own. */
const AFTERMATH_MS = 1_000;

/** Times in which the harness itself stood still are no gaps. */
export function recoveryOf(
  fault: InjectedFault,
  records: readonly RequestRecord[],
  stalls: readonly Stall[],
): Recovery {
  const { struckMs, healedMs } = fault;
  const until = (healedMs ?? struckMs) + AFTERMATH_MS;
  let [numLive, longestGapMs, allMovedMs] = [0, 0, 0];
  for (const { arrivals, endedMs } of records) {
    const [first] = arrivals;
    if (first === undefined || first > struckMs || (endedMs ?? Infinity) <= struckMs) continue;
    numLive++;
    // The ending is a sign of life too.
    const signs = endedMs === undefined ? arrivals : [...arrivals, endedMs];
    let before = first;
    let hasMoved = false;
    for (const sign of signs) {
      if (sign > struckMs) {
        if (!hasMoved) allMovedMs = Math.max(allMovedMs, sign - struckMs - stalledMs(stalls, struckMs, sign));
        hasMoved = true;
        if (before >= until) break;
        longestGapMs = Math.max(longestGapMs, sign - before - stalledMs(stalls, before, sign));
      }
      before = sign;
    }
  }
  return { faultId: fault.id, numLive, longestGapMs, allMovedMs };
}

/** The smallest value that at least `share` of all values do not exceed; 0 of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}
