import { RallyError } from "../../infra/errors.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { AttentionSettings, RoleSettings } from "../protocol/role.ts";
import { checkName } from "../protocol/subjects.ts";

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
}

export const DEFAULT_TOPOLOGY: Omit<Topology, "modelDir"> = {
  deployment: "default",
  numAttention: 1,
  numShards: 2,
  numReplicas: 1,
  microBatches: "auto",
  wireDtype: "f32",
};

/** Limits that keep a slip of the finger from starting thousands of processes. */
export const TOPOLOGY_LIMITS = { numAttention: 64, numShards: 64, numReplicas: 64, microBatches: 16 } as const;

const ATTENTION_DEFAULTS = {
  maxSequences: 64,
  prefillTokens: 256,
  dispatchTimeoutMs: 1_000,
  appendsPerSecond: 1_000,
} as const;

const EXPERT_DEFAULTS = { maxWaitingBatches: 256 } as const;

/** One place in the topology, filled by one process after another; each gets an id of its own. */
export interface RoleSlot {
  readonly role: RoleSettings["role"];
  readonly name: string;
  settings(id: string): RoleSettings;
}

export function roleSlots(topology: Topology, nats: NatsSettings, trace: boolean): RoleSlot[] {
  checkTopology(topology);
  const { deployment, modelDir, numAttention, numShards, numReplicas, microBatches, wireDtype } = topology;
  const common = { deployment, nats, modelDir, numShards, trace };
  const slots: RoleSlot[] = [];
  for (let i = 0; i < numAttention; i++) {
    slots.push({
      role: "attention",
      name: `attention-${i}`,
      settings: (id) => ({ role: "attention", id, ...common, microBatches, wireDtype, ...ATTENTION_DEFAULTS }),
    });
  }
  for (let shard = 0; shard < numShards; shard++) {
    for (let replica = 0; replica < numReplicas; replica++) {
      slots.push({
        role: "expert",
        name: numReplicas === 1 ? `expert-${shard}` : `expert-${shard}-${replica}`,
        settings: (id) => ({ role: "expert", id, ...common, shard, ...EXPERT_DEFAULTS }),
      });
    }
  }
  return slots;
}

function checkTopology(topology: Topology): void {
  checkName("deployment", topology.deployment);
  for (const field of ["numAttention", "numShards", "numReplicas", "microBatches"] as const) {
    const found = topology[field];
    const limit = TOPOLOGY_LIMITS[field];
    if (found === "auto" || (Number.isInteger(found) && found >= 1 && found <= limit)) continue;
    throw new RallyError("bad-settings", `${field} must be an integer from 1 to ${limit}, found ${found}`, {
      field,
      found,
      limit,
    });
  }
}
