import type { RowRange } from "./dispatch.ts";
import type { Trip } from "./ffn-side.ts";

/** One part of a trip on its way to one shard and back. */
export interface Leg {
  readonly visit: Visit;
  readonly shard: number;
  readonly part: number;
  readonly rows: RowRange;
  answered: boolean;
  attempt: number;
  sentAt: number;
  /** Infinity while it waits for a credit. */
  retryAt: number;
  numSilences: number;
  numRefusals: number;
  bytes: number;
}

/** A trip with what has come back of it. */
export interface Visit {
  readonly trip: Trip;
  readonly done: (error?: Error) => void;
  /** First-attempt bytes by part, the same for every shard: encoded once. */
  readonly payloads: Uint8Array[];
  /** Per shard [numTokens, hiddenSize]. */
  readonly outputs: readonly Float32Array[];
  /** [part * numShards + shard] */
  readonly legs: readonly Leg[];
  numOpen: number;
  /** All answers of a trip come from one placement. */
  epoch: number;
  /** Answers to earlier attempts are of an earlier placement. */
  firstAttempt: number;
  lastAttempt: number;
}

export function createVisit(
  trip: Trip,
  options: {
    readonly parts: readonly RowRange[];
    readonly numShards: number;
    readonly outputs: readonly Float32Array[];
    readonly epoch: number;
    readonly done: (error?: Error) => void;
  },
): Visit {
  const legs: Leg[] = [];
  const visit: Visit = {
    trip,
    done: options.done,
    payloads: [],
    outputs: options.outputs,
    legs,
    numOpen: options.parts.length * options.numShards,
    epoch: options.epoch,
    firstAttempt: 0,
    lastAttempt: 0,
  };
  for (const [part, rows] of options.parts.entries()) {
    for (let shard = 0; shard < options.numShards; shard++) {
      legs.push({
        visit,
        shard,
        part,
        rows,
        answered: false,
        attempt: 0,
        sentAt: 0,
        retryAt: Infinity,
        numSilences: 0,
        numRefusals: 0,
        bytes: 0,
      });
    }
  }
  return visit;
}
