import type { InjectedFault } from "../injected.ts";
import type { ScenarioResult } from "../result.ts";
import { colourOf, faultTitle, LEFT, RIGHT, span } from "./plot.ts";
import { duration, escaped, px, type Scale } from "./svg.ts";

const ROW = 20;
const BAR = 12;

/** A row for each thing that was hit: its faults, and when it was down. */
export function faultLanes(
  { injected, events, chaos }: ScenarioResult,
  x: Scale,
  top: number,
): { readonly svg: string; readonly bottom: number } {
  const struck = injected.filter(({ skipped }) => skipped === undefined);
  const wereDown = events
    .filter(({ kind, atMs }) => kind === "down" && atMs >= 0 && atMs <= chaos.elapsedMs)
    .map(({ source }) => source);
  const names = [...new Set([...struck.map(({ target }) => target), ...wereDown])].sort();
  const rows = names.map((name, i) => {
    const y = top + i * ROW;
    const line = `<text class="name" x="${LEFT - 8}" y="${y + 13}" text-anchor="end">${escaped(name)}</text><line class="grid" x1="${LEFT}" x2="${RIGHT}" y1="${y + ROW / 2}" y2="${y + ROW / 2}"/>`;
    const down = downTimes(name, events, chaos.elapsedMs).map(([from, to]) => {
      const width = Math.max(1, x(to) - x(from));
      return `<rect x="${px(x(from))}" y="${y + 7}" width="${px(width)}" height="6" rx="1" fill="var(--down)"><title>${escaped(`${name} down for ${duration(to - from)}`)}</title></rect>`;
    });
    const bars = struck.filter(({ target }) => target === name).map((fault) => bar(fault, x, y));
    return line + down.join("") + bars.join("");
  });
  const title =
    names.length === 0 ? "" : `<text class="title" x="${LEFT}" y="${top - 10}">Faults, and who was down</text>`;
  return { svg: title + rows.join(""), bottom: top + names.length * ROW + 6 };
}

function bar(fault: InjectedFault, x: Scale, y: number): string {
  const [from, to] = span(fault, x);
  const title = `<title>${faultTitle(fault)}</title>`;
  const colour = colourOf(fault);
  if (to - from < 3) {
    // One that only strikes.
    const [cx, cy] = [from, y + ROW / 2];
    return `<path d="M${px(cx)} ${cy - 6}L${px(cx + 5)} ${cy}L${px(cx)} ${cy + 6}L${px(cx - 5)} ${cy}Z" fill="${colour}">${title}</path>`;
  }
  return `<rect x="${px(from)}" y="${y + (ROW - BAR) / 2}" width="${px(to - from)}" height="${BAR}" rx="3" fill="${colour}" opacity="0.85">${title}</rect>`;
}

function downTimes(name: string, events: ScenarioResult["events"], elapsedMs: number): [from: number, to: number][] {
  const times: [number, number][] = [];
  let since: number | undefined;
  for (const { atMs, kind, source } of events) {
    if (source !== name || atMs < 0 || atMs > elapsedMs) continue;
    if (kind === "down") since ??= atMs;
    if (kind === "ready" && since !== undefined) {
      times.push([since, atMs]);
      since = undefined;
    }
  }
  if (since !== undefined) times.push([since, elapsedMs]);
  return times;
}
