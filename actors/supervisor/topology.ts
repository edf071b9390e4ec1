import { RallyError } from "../../infra/errors.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { AttentionSettings, RoleSettings } from "../protocol/role.ts";
import type { SharedExpertsAt } from "../protocol/placement.ts";
import { checkName } from "../protocol/subjects.ts";
import { attentionLimits, checkRoleLimits, expertLimits, type RoleLimits } from "./role-limits.ts";
import { attentionPinned, type Cores, shardPinned } from "./turns.ts";

/** What a deployment consists of on this machine. */
export interface Topology {
  readonly deployment: string;
  readonly modelDir: string;
  readonly numAttention: number;
  readonly numShards: number;
  /** Expert actors per shard. */
  readonly numReplicas: number;
  readonly microBatches: AttentionSettings["microBatches"];
  readonly wireDtype: AttentionSettings["wireDtype"];
  readonly provider: AttentionSettings["provider"];
  /** Who computes the shared experts; left out: whoever is better at it, see `sharedExpertsAt`. */
  readonly sharedExperts?: SharedExpertsAt;
  readonly limits: RoleLimits;
  /** Attention and experts take turns on these, with a thread pinned to each; left out: threads run where there is room. */
  readonly turns?: Cores;
}

export const DEFAULT_TOPOLOGY: Omit<Topology, "modelDir"> = {
  deployment: "default",
  numAttention: 1,
  numShards: 2,
  numReplicas: 1,
  microBatches: "auto",
  wireDtype: "f32",
  provider: "cpu",
  limits: {},
};

/** Limits that keep a slip of the finger from starting thousands of processes. */
export const TOPOLOGY_LIMITS = { numAttention: 64, numShards: 64, numReplicas: 64, microBatches: 16 } as const;

/** One place in the topology, filled by one process after another; each gets an id of its own. */
export interface RoleSlot {
  readonly role: RoleSettings["role"];
  readonly name: string;
  settings(id: string): RoleSettings;
}

/** Attention actors know no shards: what there is to dispatch to, the placement says. */
export function attentionSlots(topology: Topology, nats: NatsSettings, trace: boolean): RoleSlot[] {
  const { deployment, modelDir, numAttention, microBatches, wireDtype, provider, limits, turns } = topology;
  return Array.from({ length: numAttention }, (_, i) => ({
    role: "attention",
    name: `attention-${i}`,
    settings: (id) => ({
      role: "attention",
      id,
      deployment,
      nats,
      modelDir,
      provider,
      trace,
      microBatches,
      wireDtype,
      ...(turns !== undefined && { pinned: attentionPinned(turns) }),
      ...attentionLimits(limits),
    }),
  }));
}

/** `shards` of one placement, each `numReplicas` times; `suffix` tells their names from those of another placement. */
export function expertSlots(
  topology: Topology,
  nats: NatsSettings,
  trace: boolean,
  placed: { readonly epoch: number; readonly shards: readonly number[]; readonly suffix: string },
): RoleSlot[] {
  const { deployment, modelDir, numReplicas, provider, limits, turns } = topology;
  const { epoch, suffix } = placed;
  const { length: numHosted } = placed.shards;
  return placed.shards.flatMap((shard, index) =>
    Array.from({ length: numReplicas }, (_, replica): RoleSlot => ({
      role: "expert",
      name: `expert-${shard}${numReplicas === 1 ? "" : `-${replica}`}${suffix}`,
      settings: (id) => ({
        role: "expert",
        id,
        deployment,
        nats,
        modelDir,
        provider,
        trace,
        epoch,
        shard,
        ...(turns !== undefined && { pinned: shardPinned(turns, index, numHosted) }),
        ...expertLimits(limits),
      }),
    })),
  );
}

export function checkTopology(topology: Topology): void {
  checkName("deployment", topology.deployment);
  checkRoleLimits(topology.limits);
  if (topology.turns !== undefined && topology.provider !== "cpu") {
    throw new RallyError("bad-settings", `turns share out the CPU's cores, and ${topology.provider} computes`, {
      field: "turns",
      found: topology.provider,
    });
  }
  for (const field of ["numAttention", "numShards", "numReplicas", "microBatches"] as const) {
    const found = topology[field];
    const limit = TOPOLOGY_LIMITS[field];
    // Who joins need not bring attention actors.
    const least = field === "numAttention" ? 0 : 1;
    if (found === "auto" || (Number.isInteger(found) && found >= least && found <= limit)) continue;
    throw new RallyError("bad-settings", `${field} must be an integer from ${least} to ${limit}, found ${found}`, {
      field,
      found,
      limit,
    });
  }
}
