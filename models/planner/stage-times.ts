import { RallyError } from "../../infra/errors.ts";

/** Microseconds of one layer at a number of rows. */
export interface Point {
  readonly rows: number;
  readonly us: number;
}

/** What one GPU was measured to need for one micro-batch, at one context length and one kind of KV cache. */
export interface StageTimes {
  /** The whole attention stage of a layer; rows: sequences of the micro-batch on this GPU. */
  readonly attention: readonly Point[];
  /** The experts of a MoE layer; rows: mean rows of each of `weightsPerPoint` experts, the shared one counted. */
  readonly experts: readonly Point[];
  readonly weightsPerPoint: number;
  /** A dense layer with all of its weights; rows: tokens. */
  readonly dense: readonly Point[];
  /** Embedding, LM head and its candidates, once per token and micro-batch; rows: sequences. */
  readonly head: readonly Point[];
}

/**
 * Straight lines between measured points. Nothing was measured above the last, so that is refused; below the first, its own time
 * stands: reading the weights takes what it takes.
 */
export function timeAt(points: readonly Point[], rows: number, what: string): number {
  const sorted = points.toSorted((a, b) => a.rows - b.rows);
  const above = sorted.findIndex((point) => point.rows >= rows - ROUNDING);
  const next = sorted[above];
  if (next === undefined) {
    const most = sorted.at(-1)?.rows ?? 0;
    throw new RallyError("bad-settings", `${what} was measured up to ${most} rows, not at ${rows}`, { rows, most });
  }
  const before = sorted[above - 1];
  if (before === undefined) return next.us;
  return before.us + ((next.us - before.us) * (rows - before.rows)) / (next.rows - before.rows);
}

/**
 * The time of the next point at or above `rows`. Experts multiply in tiles of rows, so a tile more costs as much at its first row as at
 * its last: straight lines would promise too much.
 */
export function timeOfNext(points: readonly Point[], rows: number, what: string): number {
  const next = points.filter((point) => point.rows >= rows - ROUNDING).toSorted((a, b) => a.rows - b.rows)[0];
  return next === undefined ? timeAt(points, rows, what) : next.us;
}

/** Shares of experts are fractions: what they add up to may miss a whole number by this. */
const ROUNDING = 1e-6;

export function measuredUpTo(points: readonly Point[]): number {
  return Math.max(0, ...points.map(({ rows }) => rows));
}
