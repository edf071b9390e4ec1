import type { NatsDescription } from "../supervisor/nats-description.ts";
import type { Topology } from "../supervisor/topology.ts";

/** What serves a request, as summaries and `--json` tell it. Of a deployment started elsewhere only some is known. */
export interface ServingTopology {
  readonly deployment: string;
  readonly attention?: number;
  /** Shards of the experts. */
  readonly experts?: number;
  readonly replicas?: number;
  readonly microBatches?: number | "auto";
  /** Cores that attention and experts take turns on. */
  readonly turns?: readonly number[];
  readonly wire?: string;
  readonly provider?: string;
  readonly model?: string;
  readonly nats: NatsDescription;
  /** Started for this command and gone after it. */
  readonly ephemeral: boolean;
}

export function servingTopology(topology: Topology, nats: NatsDescription, ephemeral: boolean): ServingTopology {
  return {
    deployment: topology.deployment,
    attention: topology.numAttention,
    experts: topology.numShards,
    replicas: topology.numReplicas,
    microBatches: topology.microBatches,
    ...(topology.turns !== undefined && { turns: topology.turns }),
    wire: topology.wireDtype,
    provider: topology.provider,
    model: topology.modelDir,
    nats,
    ephemeral,
  };
}

export function describeTopology(serving: ServingTopology): string {
  const { deployment, attention, experts, replicas, microBatches, turns, wire, provider, nats, ephemeral } = serving;
  const parts = [ephemeral ? "started for this run" : `deployment ${deployment}`];
  if (attention !== undefined) parts.push(count(attention, "attention actor"));
  if (experts !== undefined) {
    const shards = count(experts, "expert shard");
    parts.push(replicas === undefined || replicas === 1 ? shards : `${shards} × ${replicas} replicas`);
  }
  if (microBatches !== undefined) parts.push(`micro-batches ${microBatches}`);
  if (turns !== undefined) parts.push(`in turns on ${count(turns.length, "core")}`);
  if (wire !== undefined) parts.push(`wire ${wire}`);
  if (provider !== undefined) parts.push(`provider ${provider}`);
  return `${parts.join(", ")}; nats-server ${nats.version} (${nats.source}, ${nats.url})`;
}

export function describeJoined(deployment: string, { version, url }: NatsDescription): string {
  return `joined deployment ${deployment} on nats-server ${version} (${url})`;
}

export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
