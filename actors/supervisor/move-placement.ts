import type { Bus } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import type { Durable } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { shardSpecs } from "../../models/load.ts";
import { discover } from "../protocol/discovery.ts";
import type { Placement } from "../protocol/messages.ts";
import { isSamePlacement, Placements } from "../protocol/placement.ts";
import { subjectsOf } from "../protocol/subjects.ts";

export interface MoveOptions {
  readonly bus: Bus;
  readonly durable: Durable;
  readonly clock: Clock;
  readonly deployment: string;
  /** So many shards with as many experts as can be in each, or the experts of each shard. */
  readonly wanted: number | Placement["shards"];
  readonly timeoutMs: number;
  readonly interrupted: AbortSignal;
  readonly progress: (text: string) => void;
}

const LOOK_EVERY_MS = 250;

/**
 * Moves a running deployment's experts into other shards: announces the placement, waits until every shard of it has an
 * expert actor, and makes it the current one. One that does not get ready is taken back. RallyError `unknown-deployment`,
 * `timeout`, `cancelled`, or `stale-epoch` if somebody else places at the same time.
 */
export async function movePlacement(options: MoveOptions): Promise<Placement> {
  const { durable, deployment, wanted } = options;
  const placements = await Placements.open(durable, subjectsOf(deployment));
  const current = await placements.read("current");
  if (current === undefined) {
    throw new RallyError("unknown-deployment", `there is no deployment ${deployment}`, {
      field: "--deployment",
      found: deployment,
    });
  }
  const { shards: present, ...same } = current;
  const numExperts = present.reduce((sum, experts) => sum + experts.length, 0);
  const shards =
    typeof wanted === "number"
      ? shardSpecs({ numExperts }, wanted).map(({ experts }) => experts)
      : ofThisModel(wanted, numExperts);
  if (isSamePlacement(current, { ...same, shards })) return current;
  const planned = await placements.plan({ ...same, shards });
  try {
    await untilHosted(planned, options);
  } catch (thrown) {
    // Nobody is to get ready for it any longer.
    await placements.plan({ ...same, shards: [] });
    throw thrown;
  }
  return await placements.publish(planned);
}

/** RallyError `bad-settings` unless every expert of the model is there, and no other. */
function ofThisModel(shards: Placement["shards"], numExperts: number): Placement["shards"] {
  const placed = new Set(shards.flat());
  const missing = Array.from({ length: numExperts }, (_, expert) => expert).find((expert) => !placed.has(expert));
  const unknown = [...placed].find((expert) => expert >= numExperts);
  if (missing === undefined && unknown === undefined) return shards;
  const what = missing === undefined ? `expert ${unknown} does not exist` : `expert ${missing} is in no shard`;
  throw new RallyError("bad-settings", `${what}: the model has experts 0 to ${numExperts - 1}`, {
    field: "--split",
    found: unknown ?? missing ?? 0,
    limit: numExperts - 1,
  });
}

async function untilHosted(planned: Placement, options: MoveOptions): Promise<void> {
  const { bus, clock, timeoutMs, interrupted, progress } = options;
  const { deployment, epoch, shards } = planned;
  const deadline = clock.elapsed() + timeoutMs;
  for (;;) {
    const experts = await discover({ bus, clock, role: "expert" });
    const hosted = new Set(
      experts.flatMap((found) => (found.deployment === deployment && found.epoch === epoch ? [found.shard] : [])),
    );
    const missing = [...shards.keys()].filter((shard) => !hosted.has(shard));
    if (missing.length === 0) return;
    progress(`waiting for expert actors of ${missing.length} of ${shards.length} shards`);
    if (interrupted.aborted) throw new RallyError("cancelled", "the placement was taken back");
    if (clock.elapsed() >= deadline) {
      throw new RallyError(
        "timeout",
        `no expert actor is ready for shard ${missing.join(", ")}: supervisors with --replicas for all shards start them`,
        { timeoutMs, missing: missing.join(",") },
      );
    }
    await new Promise<void>((resolve) => clock.after(LOOK_EVERY_MS, resolve));
  }
}
