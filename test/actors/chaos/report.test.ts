import { describe, expect, it } from "vitest";
import type { InjectedFault } from "../../../actors/chaos/injected.ts";
import { reportPage } from "../../../actors/chaos/report/page.ts";
import { newRecord } from "../../../actors/chaos/request-record.ts";
import { type ScenarioResult, summaryOf } from "../../../actors/chaos/result.ts";

const fault: InjectedFault = {
  id: 0,
  kind: "kill",
  target: "expert-0",
  plannedMs: 500,
  struckMs: 510,
  healedMs: 511,
  skipped: undefined,
  note: "<note>",
};
const figures: ScenarioResult["chaos"] = {
  requests: 2,
  tokens: 40,
  tokensPerSecond: 100,
  elapsedMs: 2_000,
  firstTokenMs: { p50: 10, p99: 20 },
  gapMs: { p50: 5, p99: 9, max: 400 },
  refusals: { overloaded: 2 },
  extraWork: { resends: 1_234, preemptions: 77 },
};

function result(changes: Partial<ScenarioResult> = {}): ScenarioResult {
  return {
    scenario: "a <scenario>",
    description: "kills & more",
    seed: 5,
    startedAt: "2026-11-24T07:00:00.000Z",
    topology: "1 attention actor",
    requests: 2,
    faults: 1,
    skipped: 0,
    differing: 0,
    lost: 0,
    duplicated: 0,
    unended: 0,
    failed: 0,
    leaked: 0,
    recoveryMs: { kill: { p50: 100, p99: 300 } },
    throughputRatio: 0.9,
    normalisedThroughputRatio: 0.95,
    capacityAlive: 0.95,
    stalledMs: 0,
    held: true,
    reference: figures,
    chaos: figures,
    findings: [],
    injected: [fault, { ...fault, id: 1, skipped: "its target was not running" }],
    recoveries: [{ faultId: 0, numLive: 2, longestGapMs: 300, allMovedMs: 250 }],
    events: [
      { atMs: 520, kind: "down", source: "expert-0", text: "ended by SIGKILL" },
      { atMs: 900, kind: "ready", source: "expert-0", text: "ready" },
    ],
    records: [0, 1].map((i) => ({
      ...newRecord({ requestId: `r-${i}`, pool: i, startedMs: 100 * i, allowedMs: 60_000 }),
      arrivals: [200, 300, 700, 1_900].map((at) => at + i),
      endedMs: 1_950,
      ending: "completed" as const,
    })),
    ...changes,
  };
}

describe("the report page", () => {
  it("is complete in itself", () => {
    const page = reportPage([result()]);
    expect(page).not.toMatch(/https?:|src=|<link|@import|url\(/);
    expect(page).toContain("EVERY PROMISE HELD");
    expect(page.match(/<svg/g)).toHaveLength(3);
    expect(page).not.toMatch(/NaN|undefined|Infinity/);
  });

  it("is well-formed, and shows names as they are", () => {
    const page = reportPage([result(), result({ held: false })]);
    expect(page).toContain("a &lt;scenario&gt;");
    expect(page).toContain("kills &amp; more");
    expect(page).toMatch(/sent again, or elsewhere<\/td><td class="n">1.?234</u);
    expect(page).toContain('<td class="n">77</td>');
    expect(page).toContain("&lt;note&gt;");
    const open: string[] = [];
    for (const [tag, close, name = "", rest = ""] of page.matchAll(/<(\/?)([a-z]\w*)([^>]*)>/g)) {
      if (["meta", "line", "rect", "circle", "path", "br"].includes(name) && (rest.endsWith("/") || name === "meta"))
        continue;
      if (close === "") open.push(name);
      else expect(`${tag} closes ${open.pop()}`).toBe(`</${name}> closes ${name}`);
    }
    expect(open).toEqual([]);
  });

  it("tells every broken promise and what led to it", () => {
    const page = reportPage([
      result({
        held: false,
        differing: 1,
        findings: [
          {
            flaw: "differing",
            requestId: "r-1",
            text: "token 3 is 9; without faults it is 8",
            led: [{ atMs: 510, text: "fault: kill expert-0" }],
          },
        ],
      }),
    ]);
    expect(page).toContain("PROMISE BROKEN");
    expect(page).toContain("token 3 is 9; without faults it is 8");
    expect(page).toMatch(/0\.510 s.*fault: kill expert-0/);
  });

  it("bears a run in which nothing happened", () => {
    const empty = result({
      requests: 0,
      injected: [],
      recoveries: [],
      recoveryMs: {},
      events: [],
      records: [],
      chaos: { ...figures, elapsedMs: 0, tokensPerSecond: 0 },
    });
    expect(reportPage([empty])).not.toMatch(/NaN|undefined|Infinity/);
  });
});

describe("summaryOf", () => {
  it("sums up, with the worst recovery and the lowest ratio", () => {
    const summary = summaryOf([
      result(),
      result({
        recoveryMs: { kill: { p50: 50, p99: 900 }, stop: { p50: 1, p99: 2 } },
        throughputRatio: 0.4,
        lost: 3,
        held: false,
      }),
    ]);
    expect(summary).toEqual({
      requests: 4,
      faults: 2,
      differing: 0,
      lost: 3,
      duplicated: 0,
      unended: 0,
      failed: 0,
      leaked: 0,
      recoveryMs: { kill: { p50: 100, p99: 900 }, stop: { p50: 1, p99: 2 } },
      throughputRatio: 0.4,
      normalisedThroughputRatio: 0.95,
      held: false,
    });
  });
});
