import { beforeEach, expect, test } from "vitest";
import { followPlacement } from "../../../actors/attention/follow-placement.ts";
import type { Placed } from "../../../actors/attention/placed-ffn.ts";
import { Placements } from "../../../actors/protocol/placement.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";

const wanted = { deployment: "d", modelHash: "abc", shards: [[0], [1, 2]] };

let placements: Placements;
let seen: Placed[];
let warnings: string[];
let mismatches: string[];
/** When what `changed` has begun is done. */
let taken: Promise<unknown>;

beforeEach(async () => {
  placements = await Placements.open(new MemoryDurable(), subjectsOf("d"));
  seen = [];
  warnings = [];
  mismatches = [];
  taken = Promise.resolve();
});

function follow() {
  return followPlacement(placements, {
    modelHash: "abc",
    numExperts: 3,
    changed: (placed) => {
      seen.push(placed);
      return taken;
    },
    warn: (text) => warnings.push(text),
    mismatch: ({ code }) => mismatches.push(code),
  });
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

test("waits for the first placement and tells of each", async () => {
  let isReady = false;
  const following = follow().then((subscription) => {
    isReady = true;
    return subscription;
  });
  await settled();
  expect(isReady).toBe(false);
  await placements.ensure(wanted);
  const subscription = await following;
  await placements.ensure({ ...wanted, shards: [[0, 1, 2]], sharedExperts: "attention" });
  await settled();
  expect(seen).toEqual([
    { epoch: 1, numShards: 2 },
    { epoch: 2, numShards: 1, sharedExperts: "attention" },
  ]);
  subscription.unsubscribe();
  await placements.ensure(wanted);
  await settled();
  expect(seen).toHaveLength(2);
});

test("waits until the first placement is taken in: what it needs may have to be opened", async () => {
  let open: () => void = () => undefined;
  taken = new Promise<void>((resolve) => (open = resolve));
  await placements.ensure(wanted);
  let isReady = false;
  const following = follow().then(() => (isReady = true));
  await settled();
  expect([seen.length, isReady]).toEqual([1, false]);
  open();
  await following;
});

test("a placement that leaves an expert out is not followed: its sums would be wrong without a word", async () => {
  await placements.ensure(wanted);
  await follow();
  await placements.ensure({ ...wanted, shards: [[0], [2]] });
  await settled();
  expect(seen).toHaveLength(1);
  expect(warnings).toEqual(["placement: expert 1 is in no shard"]);
});

test("another model's placement is none of ours", async () => {
  await placements.ensure(wanted);
  await follow();
  await placements.ensure({ ...wanted, modelHash: "def" });
  await settled();
  expect([seen.length, mismatches]).toEqual([1, ["bad-model"]]);
});
