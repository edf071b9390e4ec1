import type { ScenarioResult } from "../result.ts";
import type { RequestRecord } from "../request-record.ts";
import { faultBands, LEFT, RIGHT, timeAxis, timeScale, WIDTH } from "./plot.ts";
import { duration, escaped, px, type Scale } from "./svg.ts";

const TOP = 10;
/** Silences: so many milliseconds, and so many times the usual gap, at least. */
const NOTABLE = { ms: 250, times: 4 };
const LONG = { ms: 1_000, times: 10 };

/** Every stream as a bar, those that ran at the same time below each other; silences are gaps in the bar. */
export function streamsChart({ records, chaos, injected, findings }: ScenarioResult): string {
  const x = timeScale(chaos.elapsedMs);
  const silence = {
    notableMs: Math.max(NOTABLE.ms, NOTABLE.times * chaos.gapMs.p50),
    longMs: Math.max(LONG.ms, LONG.times * chaos.gapMs.p50),
  };
  const lanes = packed(records, chaos.elapsedMs);
  const row = lanes.length > 24 ? 7 : 12;
  const bottom = TOP + lanes.length * row + 4;
  const broken = new Set(findings.flatMap(({ requestId }) => requestId ?? []));
  const bars = lanes.flatMap((lane, i) =>
    lane.map((record) =>
      stream(record, x, { y: TOP + i * row, height: row - 3 }, { broken, elapsedMs: chaos.elapsedMs, ...silence }),
    ),
  );
  const struck = injected.filter(({ skipped }) => skipped === undefined);
  return `<svg viewBox="0 0 ${WIDTH} ${bottom + 24}" role="img" aria-label="Every stream over time">
${faultBands(struck, x, { top: TOP, bottom })}${bars.join("")}
<text x="${LEFT - 8}" y="${TOP + 12}" text-anchor="end">${lanes.length} at once</text>
${timeAxis(x, bottom)}
</svg>
<figcaption><span class="key"><i style="background:var(--accent)"></i>tokens</span><span class="key"><i style="background:var(--down)"></i>waiting for the first</span><span class="key"><i style="background:var(--process)"></i>silent for over ${duration(silence.notableMs)}</span><span class="key"><i style="background:var(--broken)"></i>for over ${duration(silence.longMs)}, or a promise broken</span></figcaption>`;
}

interface StreamContext {
  readonly broken: ReadonlySet<string>;
  readonly elapsedMs: number;
  readonly notableMs: number;
  readonly longMs: number;
}

function stream(
  record: RequestRecord,
  x: Scale,
  { y, height }: { readonly y: number; readonly height: number },
  { broken, elapsedMs, notableMs, longMs }: StreamContext,
): string {
  const { requestId, startedMs, endedMs = elapsedMs, arrivals, ending } = record;
  const [first = endedMs] = arrivals;
  const isBroken = broken.has(requestId);
  const rect = (from: number, to: number, fill: string, inset = 0) =>
    `<rect x="${px(x(from))}" y="${y + inset}" width="${px(Math.max(0.6, Math.min(RIGHT, x(to)) - x(from) - 0.5))}" height="${height - 2 * inset}" fill="${fill}"/>`;
  const parts = [
    rect(startedMs, first, "var(--down)", height / 3),
    rect(first, endedMs, isBroken ? "var(--broken)" : "var(--accent)"),
  ];
  for (const [i, at] of [...arrivals, endedMs].entries()) {
    const before = arrivals[i - 1];
    if (before === undefined || at - before < notableMs) continue;
    parts.push(rect(before, at, "var(--card)"));
    parts.push(rect(before, at, at - before < longMs ? "var(--process)" : "var(--broken)", height / 3));
  }
  const title = `${requestId}: ${arrivals.length} tokens in ${duration(endedMs - startedMs)}, ${ending ?? "no ending"}`;
  return `<g opacity="0.9">${parts.join("")}<title>${escaped(title)}</title></g>`;
}

/** As few lanes as there were streams at once. */
function packed(records: readonly RequestRecord[], elapsedMs: number): RequestRecord[][] {
  const lanes: { until: number; records: RequestRecord[] }[] = [];
  for (const record of [...records].sort((a, b) => a.startedMs - b.startedMs)) {
    let lane = lanes.find(({ until }) => until <= record.startedMs);
    if (lane === undefined) {
      lane = { until: 0, records: [] };
      lanes.push(lane);
    }
    lane.records.push(record);
    lane.until = record.endedMs ?? elapsedMs;
  }
  return lanes.map((lane) => lane.records);
}
