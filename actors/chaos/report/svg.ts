/** A position on the page for a value: linear, or logarithmic for what spans from milliseconds to minutes. */
export interface Scale {
  (value: number): number;
  readonly ticks: readonly number[];
}

export function linearScale(domain: readonly [number, number], range: readonly [number, number], numTicks = 5): Scale {
  const [from, to] = domain[1] > domain[0] ? domain : [domain[0], domain[0] + 1];
  const scale = (value: number) => range[0] + ((value - from) / (to - from)) * (range[1] - range[0]);
  const step = niceStep((to - from) / numTicks);
  const ticks: number[] = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to + step / 1e6; tick += step) ticks.push(tick);
  return Object.assign(scale, { ticks });
}

export function logScale(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const [from, to] = [Math.log10(domain[0]), Math.log10(domain[1])];
  const scale = (value: number) => {
    const at = (Math.log10(Math.max(value, domain[0])) - from) / (to - from);
    return range[0] + Math.min(1, at) * (range[1] - range[0]);
  };
  const ticks: number[] = [];
  for (let power = Math.ceil(from); power <= to + 1e-9; power++) ticks.push(10 ** power);
  return Object.assign(scale, { ticks });
}

/** 1, 2 or 5 times a power of ten, at least `rough`. */
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= rough * 0.999) ?? 10;
  return factor * power;
}

export function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** Coordinates to a tenth of a pixel. */
export function px(value: number): string {
  return String(Math.round(value * 10) / 10);
}

export function linePath(points: readonly (readonly [x: number, y: number])[]): string {
  return points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${px(x)} ${px(y)}`).join("");
}

/** Milliseconds as one reads them. */
export function duration(ms: number): string {
  if (ms >= 100_000) return `${Math.round(ms / 1000)} s`;
  if (ms >= 1_000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 1 : 2)} s`;
  return `${Math.round(ms)} ms`;
}

export function grouped(value: number): string {
  return Math.round(value).toLocaleString("en-GB");
}
