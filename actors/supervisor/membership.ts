import type { Bus } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { discover, type FoundRole } from "../protocol/discovery.ts";
import type { Placement } from "../protocol/messages.ts";
import { checkModel, isSamePlacement, type Placements, type Wanted } from "../protocol/placement.ts";

/** The actors that serve a deployment now, whoever started them. */
export async function others(bus: Bus, clock: Clock, deployment: string): Promise<FoundRole[]> {
  return (await discover({ bus, clock })).filter((found) => found.deployment === deployment);
}

/** The placement that a supervisor is to start with; see `PlacementSource`. RallyError `bad-settings` where it would disturb others. */
export async function placementFor(options: {
  readonly source: "make" | "adopt" | "join";
  readonly wanted: Wanted;
  readonly placements: Placements;
  readonly others: () => Promise<readonly FoundRole[]>;
}): Promise<Placement> {
  const { source, wanted, placements } = options;
  const { deployment, modelHash } = wanted;
  const current = await placements.read("current");
  if (source === "join") {
    if (current === undefined) {
      throw new RallyError(
        "unknown-deployment",
        `there is no deployment ${deployment} to join: start it with rally up`,
        {
          field: "--deployment",
          found: deployment,
        },
      );
    }
    checkModel(current, modelHash);
    return current;
  }
  if (current === undefined || isSamePlacement(current, wanted)) return await placements.ensure(wanted);
  if (source === "adopt" && current.modelHash === modelHash) return current;
  const present = await options.others();
  if (present.length > 0) {
    checkModel(current, modelHash);
    throw new RallyError(
      "bad-settings",
      `deployment ${deployment} runs with ${current.shards.length} shards (${present.length} actors of others): rally place --experts ${wanted.shards.length} changes that`,
      { field: "--experts", found: wanted.shards.length, expected: current.shards.length },
    );
  }
  return await placements.ensure(wanted);
}

/** RallyError `bad-settings` for shards that a placement does not have. */
export function checkShards({ shards }: Placement, chosen: readonly number[] | undefined): void {
  const wrong = chosen?.find((shard) => shard >= shards.length);
  if (wrong === undefined) return;
  throw new RallyError("bad-settings", `shard ${wrong} does not exist: the deployment has 0 to ${shards.length - 1}`, {
    field: "--experts",
    found: wrong,
    limit: shards.length - 1,
  });
}
