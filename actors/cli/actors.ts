import { systemClock } from "../../infra/clock.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { discover, type FoundRole } from "../protocol/discovery.ts";
import { count } from "./serving-topology.ts";

/** Every actor on a server, of all deployments. */
export async function listActors(nats: NatsSettings, withStats: boolean): Promise<FoundRole[]> {
  const connection = await connectNats(nats, { name: "rally-ps" });
  try {
    return await discover({ bus: connection.bus, clock: systemClock, withStats });
  } finally {
    await connection.close();
  }
}

export interface DeploymentSummary {
  readonly deployment: string;
  /** Whether it has actors of both roles. */
  readonly isWhole: boolean;
  readonly description: string;
}

/** In a few words each, by name. */
export function describeDeployments(actors: readonly FoundRole[]): DeploymentSummary[] {
  const names = [...new Set(actors.map(({ deployment }) => deployment))].sort((a, b) => a.localeCompare(b));
  return names.map((deployment) => {
    const own = actors.filter((actor) => actor.deployment === deployment);
    const experts = own.filter(({ role }) => role === "expert");
    const numAttention = own.length - experts.length;
    const numShards = new Set(experts.map(({ epoch, shard }) => `${epoch} ${shard}`)).size;
    const description = `${deployment}: ${count(numAttention, "attention actor")}, ${count(experts.length, "expert actor")} of ${count(numShards, "shard")}`;
    return { deployment, isWhole: numAttention > 0 && experts.length > 0, description };
  });
}
