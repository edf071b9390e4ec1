import { quantile } from "../recovery.ts";
import type { ScenarioResult } from "../result.ts";
import { faultLanes } from "./fault-lanes.ts";
import { faultBands, LEFT, RIGHT, rules, timeAxis, timeScale, WIDTH } from "./plot.ts";
import { duration, escaped, grouped, linearScale, linePath, logScale, px } from "./svg.ts";

const RATE = { top: 26, bottom: 176 };
const GAPS = { top: 216, bottom: 346 };
const LANES_TOP = 386;
const NUM_BINS = 140;
const LEAST_GAP_MS = 1;

/** Throughput, latency and what was done to whom, over one axis of time. */
export function timelineChart(result: ScenarioResult): string {
  const { chaos, reference, injected } = result;
  const struck = injected.filter(({ skipped }) => skipped === undefined);
  const x = timeScale(chaos.elapsedMs);
  const binMs = Math.max(250, chaos.elapsedMs / NUM_BINS);
  const bins = binned(result, binMs);
  const mostRate = Math.max(reference.tokensPerSecond, ...bins.map(({ rate }) => rate)) * 1.08;
  const yRate = linearScale([0, mostRate], [RATE.bottom, RATE.top], 4);
  const mostGap = Math.max(1_000, ...bins.map(({ worst }) => worst), ...bins.map(({ first }) => first ?? 0));
  const yGap = logScale([LEAST_GAP_MS, mostGap * 1.1], [GAPS.bottom, GAPS.top]);
  const middle = (i: number) => x(Math.min(chaos.elapsedMs, (i + 0.5) * binMs));
  const ratePoints = bins.map(({ rate }, i) => [middle(i), yRate(rate)] as const);
  const [firstPoint, lastPoint] = [ratePoints[0], ratePoints.at(-1)];
  const area =
    firstPoint === undefined || lastPoint === undefined
      ? ""
      : `${linePath(ratePoints)}L${px(lastPoint[0])} ${RATE.bottom}L${px(firstPoint[0])} ${RATE.bottom}Z`;
  const baseline = yRate(reference.tokensPerSecond);
  const lanes = faultLanes(result, x, LANES_TOP);
  const columns = bins.map(({ worst }, i) =>
    worst === 0
      ? ""
      : `<line x1="${px(middle(i))}" x2="${px(middle(i))}" y1="${GAPS.bottom}" y2="${px(yGap(worst))}" stroke="var(--process)" stroke-width="3" opacity="0.35"/>`,
  );
  // Where nothing came there is no line.
  const medians = runs(bins, ({ median }) => median > 0).map((run) =>
    linePath(run.map((i) => [middle(i), yGap(bins[i]?.median ?? 0)] as const)),
  );
  const dots = bins.map(({ first }, i) =>
    first === undefined
      ? ""
      : `<circle cx="${px(middle(i))}" cy="${px(yGap(first))}" r="2" fill="var(--message)" opacity="0.8"/>`,
  );
  return `<svg viewBox="0 0 ${WIDTH} ${lanes.bottom + 24}" role="img" aria-label="Throughput, latency and faults over time">
<text class="title" x="${LEFT}" y="${RATE.top - 10}">Tokens per second</text>
${faultBands(struck, x, RATE)}${rules(yRate, grouped)}
<path d="${area}" fill="var(--area)"/><path d="${linePath(ratePoints)}" fill="none" stroke="var(--accent)" stroke-width="1.8"/>
<line x1="${LEFT}" x2="${RIGHT}" y1="${px(baseline)}" y2="${px(baseline)}" stroke="var(--soft)" stroke-dasharray="5 4"/>
<text x="${RIGHT}" y="${RATE.top - 10}" text-anchor="end">dashed: without faults, ${grouped(reference.tokensPerSecond)}</text>
<text class="title" x="${LEFT}" y="${GAPS.top - 10}">Between two tokens of a stream</text>
${faultBands(struck, x, GAPS)}${rules(yGap, (value) => escaped(duration(value)))}
${columns.join("")}
<path d="${medians.join("")}" fill="none" stroke="var(--accent)" stroke-width="1.8"/>
${dots.join("")}
${lanes.svg}
${timeAxis(x, lanes.bottom)}
</svg>
<figcaption><span class="key"><i style="background:var(--accent)"></i>tokens per second; median gap</span><span class="key"><i style="background:var(--process)"></i>longest gap</span><span class="key"><i style="background:var(--message);border-radius:9px"></i>time to first token</span></figcaption>`;
}

/** Indices of the bins that satisfy `is`, those that follow each other together. */
function runs(bins: readonly Bin[], is: (bin: Bin) => boolean): number[][] {
  const found: number[][] = [];
  let run: number[] = [];
  for (const [i, bin] of bins.entries()) {
    if (is(bin)) run.push(i);
    else {
      found.push(run);
      run = [];
    }
  }
  return [...found, run].filter(({ length }) => length > 0);
}

interface Bin {
  readonly rate: number;
  readonly median: number;
  readonly worst: number;
  /** Longest time to a first token that came in this bin. */
  readonly first: number | undefined;
}

function binned({ records, chaos }: ScenarioResult, binMs: number): Bin[] {
  const count = Math.max(1, Math.ceil(chaos.elapsedMs / binMs));
  const tokens = Array.from({ length: count }, () => 0);
  const gaps = Array.from({ length: count }, (): number[] => []);
  const firsts = Array.from({ length: count }, (): number | undefined => undefined);
  const binOf = (atMs: number) => Math.min(count - 1, Math.max(0, Math.floor(atMs / binMs)));
  for (const { arrivals, startedMs } of records) {
    let before: number | undefined;
    for (const at of arrivals) {
      const bin = binOf(at);
      tokens[bin] = (tokens[bin] ?? 0) + 1;
      if (before === undefined) firsts[bin] = Math.max(firsts[bin] ?? 0, at - startedMs);
      else gaps[bin]?.push(at - before);
      before = at;
    }
  }
  return tokens.map((number, i) => ({
    rate: (number * 1000) / binMs,
    median: quantile(gaps[i] ?? [], 0.5),
    worst: quantile(gaps[i] ?? [], 1),
    first: firsts[i],
  }));
}
