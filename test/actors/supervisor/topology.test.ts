import { expect, test } from "vitest";
import { attentionSlots, checkTopology, expertSlots, type Topology } from "../../../actors/supervisor/topology.ts";
import { topologyOf } from "../../support/topology.ts";

const nats = { url: "nats://test" };

test("one slot per attention actor", () => {
  const slots = attentionSlots(topologyOf({ numAttention: 2 }), nats, true);
  expect(slots.map(({ name }) => name)).toEqual(["attention-0", "attention-1"]);
  expect(slots[0]?.settings("a")).toMatchObject({ role: "attention", id: "a", trace: true, nats });
});

test("one slot per replica of every shard that is hosted, for one placement", () => {
  const placed = { epoch: 7, shards: [0, 2], suffix: "" };
  const slots = expertSlots(topologyOf({ numReplicas: 2 }), nats, true, placed);
  expect(slots.map(({ name }) => name)).toEqual(["expert-0-0", "expert-0-1", "expert-2-0", "expert-2-1"]);
  expect(slots[3]?.settings("b")).toMatchObject({ role: "expert", id: "b", shard: 2, epoch: 7, trace: true });
  const [later] = expertSlots(topologyOf(), nats, false, { ...placed, suffix: "-e7" });
  expect(later?.name).toBe("expert-0-e7");
});

test("every role computes on the topology's provider", () => {
  const topology = topologyOf({ provider: "cuda" });
  const placed = { epoch: 1, shards: [0], suffix: "" };
  const slots = [...attentionSlots(topology, nats, false), ...expertSlots(topology, nats, false, placed)];
  expect(slots.map((slot) => slot.settings("a").provider)).toEqual(["cuda", "cuda"]);
  expect(topologyOf().provider).toBe("cpu");
});

test.each<[keyof Topology, Partial<Topology>]>([
  ["deployment", { deployment: "a b" }],
  ["numAttention", { numAttention: -1 }],
  ["numShards", { numShards: 65 }],
  ["numReplicas", { numReplicas: 1.5 }],
  ["microBatches", { microBatches: 0 }],
])("a bad %s is named", (field, change) => {
  expect(() => checkTopology(topologyOf(change))).toThrow(new RegExp(`^${field} must`));
});
