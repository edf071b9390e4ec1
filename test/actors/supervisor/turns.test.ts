import { expect, test } from "vitest";
import { attentionSlots, checkTopology, expertSlots } from "../../../actors/supervisor/topology.ts";
import { attentionPinned, shardPinned } from "../../../actors/supervisor/turns.ts";
import { topologyOf } from "../../support/topology.ts";

const nats = { url: "nats://test" };

test("attention computes on every core, and waits on the last for its graphs", () => {
  expect(attentionPinned([0, 1])).toEqual({ compute: [1, 0], control: [0] });
  expect(attentionPinned([2, 4, 6])).toEqual({ compute: [6, 4, 2], control: [2, 4] });
  expect(attentionPinned([5])).toEqual({ compute: [5], control: [5] });
});

test("shards share the cores out", () => {
  const shares = (cores: number[], count: number) =>
    Array.from({ length: count }, (_, index) => shardPinned(cores, index, count).compute);
  expect(shares([0, 1], 1)).toEqual([[0, 1]]);
  expect(shares([0, 1], 2)).toEqual([[0], [1]]);
  expect(shares([0, 1], 3)).toEqual([[0], [1], [0]]);
  expect(shares([0, 1, 2, 3, 4], 2)).toEqual([
    [0, 1],
    [2, 3],
  ]);
});

test("roles are pinned only where they take turns", () => {
  const settingsOf = (turns?: readonly number[]) => {
    const topology = topologyOf(turns === undefined ? {} : { turns });
    const placed = { epoch: 1, shards: [3, 5], suffix: "" };
    return [...attentionSlots(topology, nats, false), ...expertSlots(topology, nats, false, placed)].map(
      (slot) => slot.settings("id").pinned,
    );
  };
  expect(settingsOf()).toEqual([undefined, undefined, undefined]);
  expect(settingsOf([0, 1])).toEqual([
    { compute: [1, 0], control: [0] },
    { compute: [0], control: [0] },
    { compute: [1], control: [0] },
  ]);
});

test("a GPU has no turns", () => {
  expect(() => checkTopology(topologyOf({ turns: [0, 1], provider: "cuda" }))).toThrow(
    expect.objectContaining({ code: "bad-settings", fields: { field: "turns", found: "cuda" } }),
  );
});
