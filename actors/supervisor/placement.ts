import type { Durable } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import type { Placement } from "../protocol/messages.ts";
import { publishPlacement, readPlacement } from "../protocol/placement.ts";
import type { Subjects } from "../protocol/subjects.ts";

const MAX_TRIES = 5;

/**
 * Sees to it that the placement says what is wanted: one that already does stays, so that a restart or a second supervisor
 * moves nothing; any other is followed by the next epoch.
 */
export async function ensurePlacement(
  durable: Durable,
  subjects: Subjects,
  wanted: Pick<Placement, "deployment" | "modelHash" | "shards">,
): Promise<Placement> {
  for (let tries = 1; ; tries++) {
    try {
      const present = await readPlacement(durable, subjects);
      if (present !== undefined && isSame(present, wanted)) return present;
      return await publishPlacement(durable, subjects, wanted);
    } catch (thrown) {
      const error = RallyError.from(thrown);
      if (error.code !== "stale-owner" || tries === MAX_TRIES) throw error;
    }
  }
}

function isSame(present: Placement, wanted: Pick<Placement, "modelHash" | "shards">): boolean {
  return (
    present.modelHash === wanted.modelHash &&
    present.shards.length === wanted.shards.length &&
    present.shards.every((experts, shard) => experts.join() === wanted.shards[shard]?.join())
  );
}
