/** Nothing is late sooner than this: a garbage collection or another process's turn is no failure. */
const LEAST_MS = 40;
/** Of a trip whose size has never been seen. */
const UNKNOWN_MS = 250;
const MEAN_WEIGHT = 1 / 16;
const DEVIATION_WEIGHT = 1 / 8;
/** About the 99th percentile of what is usual. */
const DEVIATIONS = 4;

interface Estimate {
  meanMs: number;
  /** Running mean of the distance from the mean. */
  deviationMs: number;
}

/**
 * How long the shards take to answer, as a running mean and deviation per shard and size (a size is a power of two of rows):
 * what an answer is held against before it is called late.
 */
export class AnswerTimes {
  /** [shard][size] */
  readonly #estimates: (Estimate | undefined)[][];

  constructor(numShards: number) {
    this.#estimates = Array.from({ length: numShards }, () => []);
  }

  /** An answer that was of use: the first to its question. */
  took(shard: number, numRows: number, ms: number): void {
    const estimates = this.#estimates[shard] as (Estimate | undefined)[];
    const size = sizeOf(numRows);
    const known = estimates[size];
    if (known === undefined) {
      estimates[size] = { meanMs: ms, deviationMs: ms / 2 };
      return;
    }
    known.deviationMs += DEVIATION_WEIGHT * (Math.abs(ms - known.meanMs) - known.deviationMs);
    known.meanMs += MEAN_WEIGHT * (ms - known.meanMs);
  }

  /** After how long an answer is late. */
  lateAfterMs(shard: number, numRows: number): number {
    const estimates = this.#estimates[shard] as (Estimate | undefined)[];
    const size = sizeOf(numRows);
    // A larger size is an upper bound; a smaller one says what it would be if time grew with the rows.
    for (let larger = size; larger < estimates.length; larger++) {
      const known = estimates[larger];
      if (known !== undefined) return lateAfterMs(known);
    }
    for (let smaller = size - 1; smaller >= 0; smaller--) {
      const known = estimates[smaller];
      if (known !== undefined) return lateAfterMs(known) * 2 ** (size - smaller);
    }
    return UNKNOWN_MS;
  }

  /** How many times as long as usual an answer took. */
  slowness(shard: number, numRows: number, ms: number): number {
    const known = this.#estimates[shard]?.[sizeOf(numRows)];
    return known === undefined || known.meanMs <= 0 ? 1 : ms / known.meanMs;
  }
}

function lateAfterMs({ meanMs, deviationMs }: Estimate): number {
  return Math.max(LEAST_MS, meanMs + DEVIATIONS * deviationMs);
}

function sizeOf(numRows: number): number {
  return Math.ceil(Math.log2(Math.max(1, numRows)));
}
