import { expect, test } from "vitest";
import { attentionSlots, checkTopology, expertSlots, type Topology } from "../../../actors/supervisor/topology.ts";
import type { RoleLimit } from "../../../actors/supervisor/role-limits.ts";
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

test("limits go to the roles that they are of, defaults where none is given", () => {
  const limits = { maxSequences: 3, maxKvTokens: 500, dispatchTimeoutMs: 50, maxWaitingBatches: 7 };
  const [attention] = attentionSlots(topologyOf({ limits }), nats, false);
  expect(attention?.settings("a")).toMatchObject({
    maxSequences: 3,
    maxKvTokens: 500,
    prefillTokens: 256,
    dispatchTimeoutMs: 50,
    appendsPerSecond: 400,
  });
  const [plain] = attentionSlots(topologyOf(), nats, false);
  expect(plain?.settings("a")).not.toHaveProperty("maxKvTokens");
  const placed = { epoch: 1, shards: [0], suffix: "" };
  const [expert] = expertSlots(topologyOf({ limits }), nats, false, placed);
  expect(expert?.settings("b")).toMatchObject({ maxWaitingBatches: 7 });
});

test.each<[RoleLimit, number, number]>([
  ["maxSequences", 0, 1],
  ["maxSequences", 1025, 1024],
  ["maxKvTokens", 63, 64],
  ["prefillTokens", 1.5, 65_536],
  ["dispatchTimeoutMs", 9, 10],
  ["appendsPerSecond", 0, 1],
  ["maxWaitingBatches", Number.NaN, 65_536],
])("a bad %s (%d) is named with the limit that it breaks", (field, found, limit) => {
  const wrong = topologyOf({ limits: { [field]: found } });
  let error: unknown;
  try {
    checkTopology(wrong);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toMatchObject({ code: "bad-settings", fields: { field, found, limit } });
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
