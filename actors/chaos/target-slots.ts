import type { Topology } from "../supervisor/topology.ts";
import { CLIENT_SLOT, type TargetSlot } from "./schedule.ts";

/** Every place in a topology, and the client. */
export function targetSlots(topology: Topology): TargetSlot[] {
  const { numAttention, numShards, numReplicas } = topology;
  const slots: TargetSlot[] = [{ name: CLIENT_SLOT, role: "client" }];
  for (let index = 0; index < numAttention; index++)
    slots.push({ name: `attention-${index}`, role: "attention", index });
  for (let shard = 0; shard < numShards; shard++) {
    for (let replica = 0; replica < numReplicas; replica++) {
      const name = numReplicas === 1 ? `expert-${shard}` : `expert-${shard}-${replica}`;
      slots.push({ name, role: "expert", shard, replica });
    }
  }
  return slots;
}
