import type { Durable, KeyValue, KeyValueEntry } from "../../infra/durable.ts";
import type { Subscription } from "../../infra/bus.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import type { Provider } from "../../infra/session.ts";
import { decodePlacement } from "./decode.ts";
import type { Placement } from "./messages.ts";
import type { Subjects } from "./subjects.ts";

/** `current`: what attention actors dispatch by. `next`: what expert actors are to get ready for. */
type Key = "current" | "next";

/** A placement without its place in the order. */
export type Wanted = Omit<Placement, "kind" | "epoch">;

/** Who computes the shared experts. */
export const SHARED_EXPERTS_AT = ["attention", "experts"] as const;
export type SharedExpertsAt = (typeof SHARED_EXPERTS_AT)[number];

/**
 * Who is to compute the shared experts where nobody says. On the CPU an attention actor has the time for them while its batch is on
 * the way to the experts. On a GPU they would hold up the attention's pipeline, which is what the paper's deployments are limited by.
 */
export function sharedExpertsAt(provider: Provider): SharedExpertsAt {
  return provider === "cpu" ? "attention" : "experts";
}

const MAX_TRIES = 5;

/** The placements of one deployment. An epoch is given to one placement only, whether that ever becomes current or not. */
export class Placements {
  readonly #bucket: KeyValue;

  private constructor(bucket: KeyValue) {
    this.#bucket = bucket;
  }

  static async open(durable: Durable, subjects: Subjects): Promise<Placements> {
    return new Placements(await durable.keyValue(subjects.placementBucket));
  }

  /** RallyError `bad-message` if there is one that cannot be read. */
  async read(key: Key): Promise<Placement | undefined> {
    const { placement, problem } = await this.#get(key);
    if (problem !== undefined) throw problem;
    return placement;
  }

  /** The current or the next placement, if it has this epoch. RallyError `bad-message` if one that cannot be read may be it. */
  async withEpoch(epoch: number): Promise<Placement | undefined> {
    const found = await Promise.all([this.#get("current"), this.#get("next")]);
    const placement = found.find((one) => one.placement?.epoch === epoch)?.placement;
    const problem = found.find((one) => one.problem !== undefined)?.problem;
    if (placement === undefined && problem !== undefined) throw problem;
    return placement;
  }

  /**
   * Sees to it that the current placement is the one wanted: one that already is stays, so that a restart or a second
   * supervisor moves nothing; any other, also one that cannot be read, is followed by the next epoch. Nobody may be serving
   * yet: `plan` is for that.
   */
  ensure(wanted: Wanted): Promise<Placement> {
    return this.#again(async () => {
      const [current, next] = await Promise.all([this.#get("current"), this.#get("next")]);
      if (current.placement !== undefined && isSamePlacement(current.placement, wanted)) return current.placement;
      return await this.#put("current", wanted, epochAfter(current, next), current.revision);
    });
  }

  /** Announces the placement that is to follow, for expert actors to get ready. Replaces one announced before. */
  plan(wanted: Wanted): Promise<Placement> {
    return this.#again(async () => {
      const [current, next] = await Promise.all([this.#get("current"), this.#get("next")]);
      return await this.#put("next", wanted, epochAfter(current, next), next.revision);
    });
  }

  /** Makes an announced placement the current one. RallyError `stale-epoch` if a later one has come first. */
  publish(planned: Placement): Promise<Placement> {
    return this.#again(async () => {
      const [current, next] = await Promise.all([this.#get("current"), this.#get("next")]);
      const latest = epochAfter(current, next) - 1;
      if (latest !== planned.epoch) {
        throw new RallyError(
          "stale-epoch",
          `placement ${planned.epoch} was followed by ${latest} before it was ready`,
          {
            found: planned.epoch,
            expected: latest,
          },
        );
      }
      if (current.placement?.epoch === planned.epoch) return current.placement;
      return await this.#put("current", planned, planned.epoch, current.revision);
    });
  }

  /** Puts the placement back that was current, where what is there cannot be read or `isBad`. */
  restore(last: Placement, isBad: (current: Placement) => boolean): Promise<Placement> {
    return this.#again(async () => {
      const { placement, revision } = await this.#get("current");
      if (placement !== undefined && !isBad(placement)) return placement;
      return await this.#put("current", last, last.epoch, revision);
    });
  }

  /** Makes a placement current where what is there cannot be read or `isBad`; its epoch is later than any that was. */
  replace(wanted: Wanted, isBad: (current: Placement) => boolean): Promise<Placement> {
    return this.#again(async () => {
      const [current, next] = await Promise.all([this.#get("current"), this.#get("next")]);
      if (current.placement !== undefined && !isBad(current.placement)) return current.placement;
      return await this.#put("current", wanted, epochAfter(current, next), current.revision);
    });
  }

  /** The present value and each later one. One that cannot be read is a warning, and the last good one stays. */
  watch(key: Key, handler: (placement: Placement) => void, warn: (text: string) => void): Promise<Subscription> {
    return this.#bucket.watch(key, (entry) => {
      const { placement, problem } = foundIn(entry);
      if (problem !== undefined) warn(problem.message);
      if (placement !== undefined) handler(placement);
    });
  }

  async #get(key: Key): Promise<Found> {
    return foundIn(await this.#bucket.get(key));
  }

  async #put(key: Key, wanted: Wanted, epoch: number, revision: number): Promise<Placement> {
    const placement: Placement = { ...wanted, kind: "placement", epoch };
    await this.#bucket.put(key, encode(placement), revision);
    return placement;
  }

  /** Somebody else has written at the same moment: look again. */
  async #again<T>(attempt: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await attempt();
      } catch (thrown) {
        const error = RallyError.from(thrown);
        if (error.code !== "stale-owner" || tries === MAX_TRIES) throw error;
      }
    }
  }
}

/** The placement that attention actors dispatch by; undefined if there is no deployment, or it cannot be read just now. */
export async function readPlacement(durable: Durable, subjects: Subjects): Promise<Placement | undefined> {
  try {
    return await (await Placements.open(durable, subjects)).read("current");
  } catch (thrown) {
    if (RallyError.from(thrown).code === "bad-message") return undefined;
    throw thrown;
  }
}

interface Found {
  readonly placement: Placement | undefined;
  readonly revision: number;
  /** Why there is none, though there is something. */
  readonly problem: RallyError | undefined;
}

function foundIn(entry: KeyValueEntry | undefined): Found {
  if (entry === undefined) return { placement: undefined, revision: 0, problem: undefined };
  const { value, revision } = entry;
  try {
    const placement = decodePlacement(value);
    checkEpoch(placement, revision);
    return { placement, revision, problem: undefined };
  } catch (thrown) {
    const { message, fields } = RallyError.from(thrown);
    const problem = new RallyError("bad-message", `the placement cannot be read: ${message}`, fields, {
      cause: thrown,
    });
    return { placement: undefined, revision, problem };
  }
}

/** Each epoch is one more than those before it, and each was written: so it is never above the revision. */
function checkEpoch({ epoch }: Placement, revision: number): void {
  if (epoch <= revision) return;
  throw new RallyError("bad-message", `epoch must be at most ${revision}, found ${epoch}`, {
    field: "epoch",
    found: epoch,
    limit: revision,
  });
}

/** RallyError `bad-model` if a deployment with this placement serves another model than the one with `modelHash`. */
export function checkModel(placement: Placement, modelHash: string): void {
  if (placement.modelHash === modelHash) return;
  throw new RallyError("bad-model", "the deployment serves another model than this process has loaded", {
    field: "modelHash",
    found: modelHash,
    expected: placement.modelHash,
  });
}

function epochAfter(...found: readonly Found[]): number {
  // Of one that cannot be read, its revision is as high as its epoch can have been.
  return 1 + Math.max(...found.map(({ placement, revision }) => placement?.epoch ?? revision));
}

export function isSamePlacement(present: Placement, wanted: Wanted): boolean {
  return (
    present.modelHash === wanted.modelHash &&
    present.sharedExperts === wanted.sharedExperts &&
    present.shards.length === wanted.shards.length &&
    present.shards.every((experts, shard) => experts.join() === wanted.shards[shard]?.join())
  );
}

/** Whether an expert actor of this epoch has a use: for those who dispatch now, or for those who will. */
export function isNeeded(epoch: number, placed: { readonly current: number; readonly next: number }): boolean {
  return epoch === placed.current || (epoch === placed.next && placed.next > placed.current);
}

/** RallyError `bad-message` unless every expert of the model is in a shard: what is in none would silently be left out of sums. */
export function checkCovers({ shards }: Placement, numExperts: number): void {
  const placed = new Set(shards.flat());
  for (let expert = 0; expert < numExperts; expert++) {
    if (placed.has(expert)) continue;
    throw new RallyError("bad-message", `placement: expert ${expert} is in no shard`, { field: "shards", expert });
  }
  if (placed.size === numExperts) return;
  const expert = Math.max(...placed);
  throw new RallyError("bad-message", `placement: there is no expert ${expert}`, { field: "shards", expert });
}
