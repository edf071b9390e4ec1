import type { Clock } from "../../infra/clock.ts";

/** A dispatched message. */
export interface Send {
  readonly passId: number;
  readonly layer: number;
  readonly part: number;
  readonly attempt: number;
  readonly numRows: number;
  /** Undefined if the server chose one. */
  readonly replica: Replica | undefined;
  readonly sentAt: number;
  /** Later nobody waits for its answer. */
  readonly expiresAt: number;
}

/** An expert actor as an attention actor knows it. */
export interface Replica {
  readonly id: string;
  readonly shard: number;
  /** What was sent to it and is not answered, in the order of sending. */
  readonly open: Send[];
  /** Lets an answer wait: it gets nothing until it is heard again. */
  isAside: boolean;
  /** Running mean: its answers took so many times as long as usual. */
  slowness: number;
  slownessAt: number;
  /** Grows with every choice. */
  lastChosen: number;
}

/** Known replicas of one shard at most. Ids are new with every start, so this bounds what a shard can pile up. */
const MAX_REPLICAS = 256;
const MAX_REMEMBERED = 1_000;
const SLOWNESS_WEIGHT = 1 / 4;
/** Slowness halves its distance from the usual in this time without an answer: who was slow is tried again after a while. */
const FORGET_MS = 1_000;
/** Below this many times the fastest one's pace a replica is as good as any. */
const TOLERANCE = 2;

/** The replicas of every shard, and which of them gets the next message. */
export class Replicas {
  readonly #clock: Clock;
  /** [shard] by id */
  readonly #byShard: Map<string, Replica>[];
  /** Ids that have said goodbye; their last answers must not bring them back. */
  readonly #left = new Set<string>();
  #numChoices = 0;

  constructor(clock: Clock, numShards: number) {
    this.#clock = clock;
    this.#byShard = Array.from({ length: numShards }, () => new Map<string, Replica>());
  }

  find(shard: number, id: string): Replica | undefined {
    return this.#byShard[shard]?.get(id);
  }

  /** Undefined if it has left, its shard does not exist, or there are too many already. */
  add(shard: number, id: string): Replica | undefined {
    const replicas = this.#byShard[shard];
    if (replicas === undefined || replicas.size >= MAX_REPLICAS || this.#left.has(id)) return undefined;
    const replica: Replica = {
      id,
      shard,
      open: [],
      isAside: false,
      slowness: 1,
      slownessAt: this.#clock.elapsed(),
      lastChosen: 0,
    };
    replicas.set(id, replica);
    return replica;
  }

  remove({ shard, id }: Replica): void {
    this.#byShard[shard]?.delete(id);
  }

  /** It will not come back under this id. */
  leave(id: string): void {
    this.#left.add(id);
    for (const oldest of this.#left) {
      if (this.#left.size <= MAX_REMEMBERED) break;
      this.#left.delete(oldest);
    }
  }

  /** The one that will probably answer first: fewest open messages, weighed by pace, then the longest unused. */
  choose(shard: number, except: readonly string[]): Replica | undefined {
    const now = this.#clock.elapsed();
    const candidates: { readonly replica: Replica; readonly slowness: number }[] = [];
    let fastest = Infinity;
    for (const replica of this.#byShard[shard]?.values() ?? []) {
      if (replica.isAside || except.includes(replica.id)) continue;
      const slowness = slownessNow(replica, now);
      fastest = Math.min(fastest, slowness);
      candidates.push({ replica, slowness });
    }
    let chosen: Replica | undefined;
    let least = Infinity;
    for (const { replica, slowness } of candidates) {
      dropExpired(replica, now);
      const factor = slowness / fastest;
      const load = (replica.open.length + 1) * (factor < TOLERANCE ? 1 : factor);
      if (load > least || (load === least && chosen !== undefined && replica.lastChosen >= chosen.lastChosen)) continue;
      [chosen, least] = [replica, load];
    }
    if (chosen !== undefined) chosen.lastChosen = ++this.#numChoices;
    return chosen;
  }

  /** An answer that took `slowness` times as long as usual. */
  paced(replica: Replica, slowness: number): void {
    const now = this.#clock.elapsed();
    const before = slownessNow(replica, now);
    replica.slowness = before + SLOWNESS_WEIGHT * (slowness - before);
    replica.slownessAt = now;
  }
}

function slownessNow({ slowness, slownessAt }: Replica, now: number): number {
  return 1 + (slowness - 1) * 2 ** ((slownessAt - now) / FORGET_MS);
}

/** What was lost is never answered, and must not count for ever. */
function dropExpired({ open }: Replica, now: number): void {
  let expired = 0;
  while (expired < open.length && (open[expired] as Send).expiresAt <= now) expired++;
  if (expired > 0) open.splice(0, expired);
}
