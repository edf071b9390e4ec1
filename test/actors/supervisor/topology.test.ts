import { expect, test } from "vitest";
import { roleSlots, type Topology } from "../../../actors/supervisor/topology.ts";
import { topologyOf } from "../../support/topology.ts";

const nats = { url: "nats://test" };

test("one slot per attention actor and per replica of every shard", () => {
  const slots = roleSlots(topologyOf({ numAttention: 2, numShards: 2, numReplicas: 2 }), nats, true);
  expect(slots.map(({ name }) => name)).toEqual([
    "attention-0",
    "attention-1",
    "expert-0-0",
    "expert-0-1",
    "expert-1-0",
    "expert-1-1",
  ]);
  expect(slots[0]?.settings("a")).toMatchObject({ role: "attention", id: "a", numShards: 2, trace: true, nats });
  expect(slots[5]?.settings("b")).toMatchObject({ role: "expert", id: "b", shard: 1, numShards: 2, trace: true });
});

test.each<[keyof Topology, Partial<Topology>]>([
  ["deployment", { deployment: "a b" }],
  ["numAttention", { numAttention: 0 }],
  ["numShards", { numShards: 65 }],
  ["numReplicas", { numReplicas: 1.5 }],
  ["microBatches", { microBatches: 0 }],
])("a bad %s is named", (field, change) => {
  expect(() => roleSlots(topologyOf(change), nats, false)).toThrow(new RegExp(`^${field} must`));
});
