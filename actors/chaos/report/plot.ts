import type { InjectedFault } from "../injected.ts";
import { FAULTS } from "../faults.ts";
import { type Scale, duration, escaped, linearScale, px } from "./svg.ts";

export const WIDTH = 1060;
export const LEFT = 112;
export const RIGHT = WIDTH - 16;

/** Where a fault's colour comes from. */
export function colourOf({ kind }: Pick<InjectedFault, "kind">): string {
  return `var(--${FAULTS[kind].group})`;
}

export function timeScale(elapsedMs: number): Scale {
  return linearScale([0, Math.max(elapsedMs, 1)], [LEFT, RIGHT], 10);
}

/** Horizontal rules and their labels at the left. */
export function rules(y: Scale, label: (value: number) => string): string {
  return y.ticks
    .map(
      (tick) =>
        `<line class="grid" x1="${LEFT}" x2="${RIGHT}" y1="${px(y(tick))}" y2="${px(y(tick))}"/>` +
        `<text x="${LEFT - 8}" y="${px(y(tick) + 4)}" text-anchor="end">${escaped(label(tick))}</text>`,
    )
    .join("");
}

export function timeAxis(x: Scale, top: number): string {
  const marks = x.ticks
    .map((tick) => `<text x="${px(x(tick))}" y="${top + 16}" text-anchor="middle">${px(tick / 1000)} s</text>`)
    .join("");
  return `<line class="axis" x1="${LEFT}" x2="${RIGHT}" y1="${top}" y2="${top}"/>${marks}`;
}

/** Faint bands of all faults behind a curve. */
export function faultBands(
  faults: readonly InjectedFault[],
  x: Scale,
  { top, bottom }: { readonly top: number; readonly bottom: number },
): string {
  return faults
    .map((fault) => {
      const [from, to] = span(fault, x);
      return `<rect x="${px(from)}" y="${top}" width="${px(Math.max(1.2, to - from))}" height="${bottom - top}" fill="${colourOf(fault)}" opacity="0.13"><title>${faultTitle(fault)}</title></rect>`;
    })
    .join("");
}

export function span({ struckMs, healedMs }: InjectedFault, x: Scale): readonly [number, number] {
  const from = Math.min(RIGHT, x(struckMs));
  return [from, Math.min(RIGHT, Math.max(from, x(healedMs ?? struckMs)))];
}

export function faultTitle({ id, kind, target, struckMs, healedMs, note }: InjectedFault): string {
  const lasted = healedMs === undefined || healedMs - struckMs < 1 ? "" : `, ${duration(healedMs - struckMs)}`;
  return escaped(`#${id} ${kind} ${target} at ${duration(struckMs)}${lasted}${note === undefined ? "" : ` — ${note}`}`);
}
