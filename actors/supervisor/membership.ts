import type { Bus } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { shardSpecs } from "../../models/load.ts";
import { discover, type FoundRole } from "../protocol/discovery.ts";
import type { Placement } from "../protocol/messages.ts";
import {
  checkCovers,
  checkModel,
  isSamePlacement,
  type Placements,
  type SharedExpertsAt,
  type Wanted,
} from "../protocol/placement.ts";
import { TOPOLOGY_LIMITS } from "./topology.ts";

/** The actors that serve a deployment now, whoever started them. */
export async function others(bus: Bus, clock: Clock, deployment: string): Promise<FoundRole[]> {
  return (await discover({ bus, clock })).filter((found) => found.deployment === deployment);
}

export interface PlacementOptions {
  readonly source: "make" | "adopt" | "join";
  readonly wanted: Wanted;
  /** Whether it was asked for that the shared experts are where `wanted` has them; else any place will do. */
  readonly asksForShared?: boolean;
  readonly numExperts: number;
  readonly placements: Placements;
  readonly clock: Clock;
  readonly others: () => Promise<readonly FoundRole[]>;
  readonly warn: (text: string) => void;
}

/** The supervisors of those who are there know the last good placement, and put it back. */
const PUT_BACK_LIMIT_MS = 5_000;
const LOOK_EVERY_MS = 250;

/** The placement that a supervisor is to start with; see `PlacementSource`. RallyError `bad-settings` where it would disturb others. */
export async function placementFor(options: PlacementOptions): Promise<Placement> {
  const { source, wanted, placements } = options;
  const { deployment, modelHash } = wanted;
  const current = await sensible(options);
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
  const present = await options.others();
  if (source === "adopt" && current.modelHash === modelHash) {
    if (present.length === 0) return await placements.ensure({ ...wanted, shards: current.shards });
    if (options.asksForShared === true) checkSharedExperts(current, wanted);
    return current;
  }
  if (present.length > 0) {
    checkModel(current, modelHash);
    checkSharedExperts(current, wanted);
    throw new RallyError(
      "bad-settings",
      `deployment ${deployment} runs with ${current.shards.length} shards (${present.length} actors of others): rally place --experts ${wanted.shards.length} changes that`,
      { field: "--experts", found: wanted.shards.length, expected: current.shards.length },
    );
  }
  return await placements.ensure(wanted);
}

/** RallyError `bad-settings` where others are to compute the shared experts than do while the deployment runs. */
function checkSharedExperts(current: Placement, wanted: Wanted): void {
  const present: SharedExpertsAt = current.sharedExperts ?? "experts";
  const asked: SharedExpertsAt = wanted.sharedExperts ?? "experts";
  if (present === asked) return;
  throw new RallyError(
    "bad-settings",
    `deployment ${current.deployment} runs with --shared-experts ${present}, and others are there: it stays so`,
    { field: "--shared-experts", found: asked, expected: present },
  );
}

/** The current placement. One that makes no sense is made anew from what is still known; who joins leaves that to others. */
async function sensible(options: PlacementOptions): Promise<Placement | undefined> {
  const { source, wanted, numExperts, placements, clock, warn } = options;
  const deadline = clock.elapsed() + PUT_BACK_LIMIT_MS;
  for (;;) {
    let problem: RallyError;
    try {
      const current = await placements.read("current");
      // Of another model's placement we cannot tell.
      if (current?.modelHash === wanted.modelHash) checkSensible(current, numExperts);
      return current;
    } catch (thrown) {
      problem = RallyError.from(thrown);
      if (problem.code !== "bad-message") throw thrown;
    }
    const present = await options.others();
    if (present.length === 0 || clock.elapsed() >= deadline) {
      if (source === "join") throw problem;
      const shards = shardsServed(present, numExperts) ?? wanted.shards;
      warn(`${problem.message}; it is made anew with ${shards.length} shards`);
      return await placements.replace({ ...wanted, shards }, (current) => !isSensible(current, numExperts));
    }
    await new Promise<void>((resolve) => clock.after(LOOK_EVERY_MS, resolve));
  }
}

/** Of the latest placement that expert actors are there for. */
function shardsServed(present: readonly FoundRole[], numExperts: number): Wanted["shards"] | undefined {
  const epoch = Math.max(0, ...present.map((found) => found.epoch ?? 0));
  const served = present.flatMap((found) => (found.epoch === epoch && found.shard !== undefined ? [found.shard] : []));
  if (served.length === 0) return undefined;
  const numShards = Math.min(1 + Math.max(...served), numExperts);
  return shardSpecs({ numExperts }, numShards).map(({ experts }) => experts);
}

/** RallyError `bad-message` for a placement that nobody could serve. */
export function checkSensible(placement: Placement, numExperts: number): void {
  const { shards } = placement;
  const limit = TOPOLOGY_LIMITS.numShards;
  if (shards.length > limit) {
    throw new RallyError("bad-message", `placement: at most ${limit} shards, found ${shards.length}`, {
      field: "shards",
      found: shards.length,
      limit,
    });
  }
  checkCovers(placement, numExperts);
}

export function isSensible(placement: Placement, numExperts: number): boolean {
  try {
    checkSensible(placement, numExperts);
    return true;
  } catch {
    return false;
  }
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
