import type { RowRange } from "./dispatch.ts";
import type { Trip } from "./ffn-side.ts";
import type { Send } from "./replicas.ts";

/** One part of a trip on its way to one shard and back. */
export interface Leg {
  readonly visit: Visit;
  readonly shard: number;
  readonly part: number;
  readonly rows: RowRange;
  answered: boolean;
  attempt: number;
  /** Messages that were sent for it. */
  readonly sends: Send[];
  /** Of the last of them. */
  sentAt: number;
  /** When it is sent again in any case. Infinity while it waits for a credit. */
  retryAt: number;
  /** When an answer would be late: then another replica is asked too, if there is one. */
  lateAt: number;
  isLate: boolean;
  /** Nobody was there to get it. */
  isUnheard: boolean;
  /** Replicas that are not asked again until it has been sent in vain to all. */
  tried: string[];
  numSilences: number;
  numRefusals: number;
  bytes: number;
}

/** A trip with what has come back of it. */
export interface Visit {
  readonly trip: Trip;
  readonly done: (error?: Error) => void;
  /** [numTokens, hiddenSize] what the shards' outputs are added to: the residual, and the shared expert if it is computed here. */
  readonly base: Float32Array;
  /** Whether `base` is there. */
  isBased: boolean;
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
    /** To be filled yet; the trip's residual as it is if left out. */
    readonly base?: Float32Array | undefined;
    readonly outputs: readonly Float32Array[];
    readonly epoch: number;
    readonly done: (error?: Error) => void;
  },
): Visit {
  const legs: Leg[] = [];
  const visit: Visit = {
    trip,
    done: options.done,
    base: options.base ?? trip.pass.residual,
    isBased: options.base === undefined,
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
        sends: [],
        sentAt: 0,
        retryAt: Infinity,
        lateAt: Infinity,
        isLate: false,
        isUnheard: false,
        tried: [],
        numSilences: 0,
        numRefusals: 0,
        bytes: 0,
      });
    }
  }
  return visit;
}

/** It was refused, or nobody was there: it is sent again then, to any replica. */
export function putOff(leg: Leg, retryAt: number): void {
  leg.retryAt = retryAt;
  leg.lateAt = Infinity;
  leg.tried.length = 0;
}

export function sendOf(leg: Leg, attempt: number): Send | undefined {
  return leg.sends.find((send) => send.attempt === attempt);
}

/** When a leg that is under way has to be looked at again. */
export function dueAt(leg: Leg): number {
  // One that is late already is looked at as often as any.
  return leg.isLate ? leg.retryAt : Math.min(leg.retryAt, leg.lateAt);
}
