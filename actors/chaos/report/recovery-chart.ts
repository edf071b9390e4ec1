import type { FaultKind } from "../faults.ts";
import type { ScenarioResult } from "../result.ts";
import { colourOf, faultTitle, LEFT, RIGHT, WIDTH } from "./plot.ts";
import { duration, escaped, logScale, px } from "./svg.ts";

const TOP = 12;
const ROW = 34;
/** Room for the figures at the right. */
const PLOT_RIGHT = RIGHT - 190;
const NAMES = LEFT + 30;

/** For each kind of fault, how long streams stood still: a dot for each fault, its median and 99th percentile. */
export function recoveryChart({ recoveries, injected, recoveryMs }: ScenarioResult): string {
  const felt = recoveries.filter(({ numLive }) => numLive > 0);
  const kinds = (Object.keys(recoveryMs) as FaultKind[]).sort();
  const most = Math.max(1_000, ...felt.map(({ longestGapMs }) => longestGapMs));
  const x = logScale([10, most * 1.2], [NAMES, PLOT_RIGHT]);
  const bottom = TOP + kinds.length * ROW;
  const grid = x.ticks
    .map(
      (tick) =>
        `<line class="grid" x1="${px(x(tick))}" x2="${px(x(tick))}" y1="${TOP}" y2="${bottom}"/><text x="${px(x(tick))}" y="${bottom + 16}" text-anchor="middle">${duration(tick)}</text>`,
    )
    .join("");
  const byId = new Map(injected.map((fault) => [fault.id, fault]));
  const rows = kinds.map((kind, i) => {
    const y = TOP + i * ROW + ROW / 2;
    const colour = colourOf({ kind });
    const dots = felt.flatMap(({ faultId, longestGapMs, allMovedMs }, n) => {
      const fault = byId.get(faultId);
      if (fault?.kind !== kind) return [];
      // Apart from each other, the same way every time.
      const offset = ((n * 7) % 11) - 5;
      const title = `${faultTitle(fault)}\nlongest gap ${duration(longestGapMs)}, all moved after ${duration(allMovedMs)}`;
      return [
        `<circle cx="${px(x(longestGapMs))}" cy="${px(y + offset)}" r="3.6" fill="${colour}" opacity="0.55"><title>${title}</title></circle>`,
      ];
    });
    const { p50, p99 } = recoveryMs[kind] ?? { p50: 0, p99: 0 };
    const mark = (value: number, width: number) =>
      `<line x1="${px(x(value))}" x2="${px(x(value))}" y1="${y - 11}" y2="${y + 11}" stroke="${colour}" stroke-width="${width}"/>`;
    return `<text class="name" x="${NAMES - 12}" y="${y + 4}" text-anchor="end">${escaped(kind)}</text>
<line class="axis" x1="${NAMES}" x2="${PLOT_RIGHT}" y1="${y}" y2="${y}"/>${dots.join("")}${dots.length === 0 ? "" : mark(p50, 3) + mark(p99, 1.5)}
<text class="name" x="${RIGHT}" y="${y + 4}" text-anchor="end">${dots.length === 0 ? "no stream was live" : `p50 ${duration(p50)} · p99 ${duration(p99)}`}</text>`;
  });
  return `<svg viewBox="0 0 ${WIDTH} ${bottom + 24}" role="img" aria-label="Recovery by kind of fault">${grid}${rows.join("")}</svg>
<figcaption>The longest gap between two tokens of any stream that was live when a fault struck, until a second after it was over. Thick line: median; thin line: 99th percentile.</figcaption>`;
}
