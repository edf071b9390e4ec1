import type { DeploymentEvent } from "./chaos-target.ts";
import type { FaultKind } from "./faults.ts";
import type { InjectedFault } from "./injected.ts";
import type { Flaw, Violation } from "./oracle.ts";
import type { Recovery } from "./recovery.ts";
import type { RequestRecord } from "./request-record.ts";

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

/** What `rally chaos --json` prints. */
export interface ChaosSummary {
  readonly requests: number;
  readonly faults: number;
  /** Streams of which a token was another than without faults. */
  readonly differing: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly unended: number;
  /** Requests that ended in an error which the scenario does not allow. */
  readonly failed: number;
  /** Things still held when everything was over. */
  readonly leaked: number;
  /** Per kind of fault, the longest gap between two tokens of a stream that was live. */
  readonly recoveryMs: Partial<Record<FaultKind, Percentiles>>;
  /** Tokens per second with faults ÷ without. */
  readonly throughputRatio: number;
  /** The same, ÷ the share of actors that was alive in the worst-hit group. */
  readonly normalisedThroughputRatio: number;
  readonly held: boolean;
}

/** A broken promise and what led to it. */
export interface Finding extends Omit<Violation, "requestId" | "flaw"> {
  readonly flaw: Flaw | "leaked" | "limit";
  readonly requestId: string | undefined;
  readonly led: readonly { readonly atMs: number; readonly text: string }[];
}

export interface ScenarioResult extends ChaosSummary {
  readonly scenario: string;
  readonly description: string;
  readonly seed: number;
  readonly startedAt: string;
  readonly topology: string;
  /** Faults that could not strike. */
  readonly skipped: number;
  readonly capacityAlive: number;
  /** Time in which the harness itself did not run; taken out of every gap. */
  readonly stalledMs: number;
  readonly reference: PassFigures;
  readonly chaos: PassFigures;
  readonly findings: readonly Finding[];
  readonly injected: readonly InjectedFault[];
  readonly recoveries: readonly Recovery[];
  readonly events: readonly DeploymentEvent[];
  readonly records: readonly RequestRecord[];
}

export interface PassFigures {
  readonly requests: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly elapsedMs: number;
  /** From a request's sending to its first token. */
  readonly firstTokenMs: Percentiles;
  readonly gapMs: Percentiles & { readonly max: number };
  /** Refusals after which the client came back, by code. */
  readonly refusals: Readonly<Record<string, number>>;
  readonly extraWork: ExtraWork;
}

/** What attention actors did beyond the work itself; of those that have not ended. */
export interface ExtraWork {
  /** Activations that were sent once more: to another replica because an answer was late, or because none came. */
  readonly resends: number;
  /** Sequences that had to give way to older ones. */
  readonly preemptions: number;
}

/** Of several scenarios: sums, the worst recovery and the lowest ratio. */
export function summaryOf(results: readonly ScenarioResult[]): ChaosSummary {
  const sum = (count: (result: ScenarioResult) => number) => results.reduce((total, one) => total + count(one), 0);
  const lowest = (ratio: (result: ScenarioResult) => number) => Math.min(...results.map(ratio));
  const recoveryMs: Partial<Record<FaultKind, Percentiles>> = {};
  for (const result of results) {
    for (const [kind, { p50, p99 }] of Object.entries(result.recoveryMs) as [FaultKind, Percentiles][]) {
      const other = recoveryMs[kind] ?? { p50: 0, p99: 0 };
      recoveryMs[kind] = { p50: Math.max(p50, other.p50), p99: Math.max(p99, other.p99) };
    }
  }
  return {
    requests: sum(({ requests }) => requests),
    faults: sum(({ faults }) => faults),
    differing: sum(({ differing }) => differing),
    lost: sum(({ lost }) => lost),
    duplicated: sum(({ duplicated }) => duplicated),
    unended: sum(({ unended }) => unended),
    failed: sum(({ failed }) => failed),
    leaked: sum(({ leaked }) => leaked),
    recoveryMs,
    throughputRatio: lowest(({ throughputRatio }) => throughputRatio),
    normalisedThroughputRatio: lowest(({ normalisedThroughputRatio }) => normalisedThroughputRatio),
    held: results.every(({ held }) => held),
  };
}
