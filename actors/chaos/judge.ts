import type { LogEntry } from "../../infra/durable.ts";
import type { DeploymentEvent } from "./chaos-target.ts";
import { capacityAlive } from "./capacity.ts";
import type { FaultKind } from "./faults.ts";
import type { InjectedFault } from "./injected.ts";
import { whatLedTo } from "./led-to.ts";
import type { Load } from "./load.ts";
import { checkClient, type CheckedLog, checkLog, type Flaw, type Violation } from "./oracle.ts";
import { figuresOf, percentiles } from "./pass.ts";
import { type Recovery, recoveryOf } from "./recovery.ts";
import type { RequestRecord } from "./request-record.ts";
import type { ExtraWork, Finding, Percentiles, ScenarioResult } from "./result.ts";
import type { Hold, Scenario } from "./scenario.ts";
import type { TargetSlot } from "./schedule.ts";
import { type Stall, stalledMs } from "./stall-watch.ts";

export interface Evidence {
  readonly scenario: Scenario;
  readonly seed: number;
  readonly startedAt: string;
  readonly topology: string;
  readonly slots: readonly TargetSlot[];
  readonly reference: Load;
  readonly load: Load;
  /** Of both of them. */
  readonly extraWork: { readonly reference: ExtraWork; readonly load: ExtraWork };
  /** Per different request, its log without faults. */
  readonly expected: readonly CheckedLog[];
  readonly logs: ReadonlyMap<string, readonly LogEntry[]>;
  readonly injected: readonly InjectedFault[];
  /** Request ids that only a typed failure may answer. */
  readonly poisoned: readonly string[];
  readonly leaks: readonly { readonly what: string; readonly amount: number }[];
  /** Times as those of the load. */
  readonly events: readonly DeploymentEvent[];
  readonly stalls: readonly Stall[];
}

/** What held and what did not. */
export function judge(evidence: Evidence): ScenarioResult {
  const { scenario, seed, startedAt, topology, load, injected, leaks, events, stalls } = evidence;
  const { hold } = scenario;
  const findings = [...referenceFindings(evidence), ...requestFindings(evidence), ...poisonFindings(evidence)];
  const count = (flaw: Flaw) =>
    new Set(findings.filter((finding) => finding.flaw === flaw).map(({ requestId }) => requestId)).size;
  const struck = injected.filter(({ skipped }) => skipped === undefined);
  const recoveries = struck.map((fault) => recoveryOf(fault, load.records, stalls));
  const [reference, chaos] = [
    figuresOf(evidence.reference, evidence.extraWork.reference),
    figuresOf(load, evidence.extraWork.load),
  ];
  const alive = capacityAlive(evidence.slots, events, chaos.elapsedMs);
  const throughputRatio = chaos.tokensPerSecond / Math.max(reference.tokensPerSecond, 1e-9);
  const recoveryMs = recoveryByKind(struck, recoveries);
  findings.push(...leaks.map(leakFinding), ...limitFindings(hold, recoveryMs, throughputRatio));
  for (const { kind, target, note } of injected) {
    if (note?.startsWith("the harness:") === true) findings.push(limitFinding(`${kind} ${target}: ${note}`));
  }
  return {
    scenario: scenario.name,
    description: scenario.description,
    seed,
    startedAt,
    topology,
    requests: load.records.length,
    faults: struck.length,
    skipped: injected.length - struck.length,
    differing: count("differing"),
    lost: count("lost"),
    duplicated: count("duplicated"),
    unended: count("unended"),
    failed: count("failed"),
    leaked: leaks.reduce((sum, { amount }) => sum + amount, 0),
    recoveryMs,
    throughputRatio: rounded(throughputRatio),
    normalisedThroughputRatio: rounded(throughputRatio / alive),
    capacityAlive: rounded(alive),
    stalledMs: Math.round(stalledMs(stalls, 0, Infinity)),
    held: findings.length === 0,
    reference,
    chaos,
    findings,
    injected,
    recoveries,
    events,
    records: load.records,
  };
}

/** The run without faults has to keep the promises, and there has to be one for every request. */
function referenceFindings({ reference, expected }: Evidence): Finding[] {
  return expected.flatMap((checked, i) => {
    const record = reference.records[i];
    const isUsable = checked.ending === "completed";
    const own: Violation[] = isUsable
      ? []
      : [{ flaw: "failed", requestId: record?.requestId ?? "", text: `ended as ${checked.ending ?? "nothing"}` }];
    return [...checked.violations, ...own].map((violation) => ({
      ...violation,
      text: `without any fault: ${violation.text}`,
      led: [],
    }));
  });
}

function requestFindings(evidence: Evidence): Finding[] {
  const { scenario, load, expected, logs } = evidence;
  return load.records.flatMap((record) => {
    const reference = expected[record.pool];
    // What has no good measure is reported with the run without faults.
    if (reference?.ending !== "completed") return [];
    const faultFree = reference.ids;
    const entries = logs.get(record.requestId) ?? [];
    const logged = checkLog(record.requestId, entries, faultFree);
    const isRefused = entries.length === 0 && isAllowed(record.ending, scenario.hold);
    const violations: Violation[] = isRefused ? [] : [...logged.violations, ...checkClient(record, faultFree, logged)];
    const ending = logged.ending === undefined || logged.ending === "completed" ? undefined : logged.ending;
    if (ending !== undefined && !isAllowed(ending, scenario.hold)) {
      const text = `ended with ${ending} after ${logged.ids.length} tokens: ${record.endingText ?? ""}`;
      violations.push({ flaw: "failed", requestId: record.requestId, text });
    }
    const flaws = new Set<Flaw>();
    return violations.flatMap((violation) => {
      // The log's word and the client's on the same thing are one finding.
      if (flaws.has(violation.flaw)) return [];
      flaws.add(violation.flaw);
      return [{ ...violation, led: whatLedTo(record, logged, evidence) }];
    });
  });
}

/** Bad input is answered, not obeyed: one failure, no token. */
function poisonFindings({ poisoned, logs }: Evidence): Finding[] {
  return poisoned.flatMap((requestId) => {
    const { violations, ending, ids } = checkLog(requestId, logs.get(requestId) ?? [], []);
    const isAnswered = ending === "bad-request" && ids.length === 0;
    const found: readonly Violation[] =
      isAnswered || violations.length > 0
        ? violations
        : [{ flaw: "failed", requestId, text: `a message that is no request ended as ${ending ?? "nothing"}` }];
    return found.map((violation) => ({ ...violation, led: [] }));
  });
}

function isAllowed(ending: RequestRecord["ending"] | "cancelled", { allowErrors }: Hold): boolean {
  return allowErrors.some((code) => code === ending);
}

function recoveryByKind(
  faults: readonly InjectedFault[],
  recoveries: readonly Recovery[],
): Partial<Record<FaultKind, Percentiles>> {
  const byKind: Partial<Record<FaultKind, Percentiles>> = {};
  for (const kind of new Set(faults.map((fault) => fault.kind))) {
    const gaps = recoveries.flatMap(({ longestGapMs, numLive }, i) =>
      faults[i]?.kind === kind && numLive > 0 ? [longestGapMs] : [],
    );
    // Where no stream was live there is nothing to tell.
    if (gaps.length === 0) continue;
    const { p50, p99 } = percentiles(gaps);
    byKind[kind] = { p50: Math.round(p50), p99: Math.round(p99) };
  }
  return byKind;
}

function limitFindings(hold: Hold, recoveryMs: ScenarioResult["recoveryMs"], throughputRatio: number): Finding[] {
  const findings: Finding[] = [];
  for (const [kind, limits] of Object.entries(hold.recoveryMs) as [FaultKind, Partial<Percentiles>][]) {
    for (const quantile of ["p50", "p99"] as const) {
      const [limit, found] = [limits[quantile], recoveryMs[kind]?.[quantile]];
      if (limit === undefined || found === undefined || found <= limit) continue;
      findings.push(
        limitFinding(`longest gap between tokens after ${kind}: ${quantile} ${found} ms, limit ${limit} ms`),
      );
    }
  }
  const { throughputRatio: least } = hold;
  if (least !== undefined && throughputRatio < least) {
    findings.push(limitFinding(`throughput with faults ÷ without: ${rounded(throughputRatio)}, at least ${least}`));
  }
  return findings;
}

function limitFinding(text: string): Finding {
  return { flaw: "limit", requestId: undefined, text, led: [] };
}

function leakFinding({ what, amount }: { readonly what: string; readonly amount: number }): Finding {
  return {
    flaw: "leaked",
    requestId: undefined,
    text: `when all was over, ${what}: ${amount} more than before`,
    led: [],
  };
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}
