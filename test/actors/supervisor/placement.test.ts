import { expect, test } from "vitest";
import { ensurePlacement } from "../../../actors/supervisor/placement.ts";
import { readPlacement } from "../../../actors/protocol/placement.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";

const subjects = subjectsOf("test");
const wanted = {
  deployment: "test",
  modelHash: "abc",
  shards: [
    [0, 1],
    [2, 3],
  ],
};

test("the first is epoch 1; the same again moves nothing", async () => {
  const durable = new MemoryDurable();
  expect(await ensurePlacement(durable, subjects, wanted)).toEqual({ kind: "placement", epoch: 1, ...wanted });
  expect((await ensurePlacement(durable, subjects, wanted)).epoch).toBe(1);
  expect(await readPlacement(durable, subjects)).toMatchObject({ epoch: 1 });
});

test.each([
  ["another model", { modelHash: "def" }],
  ["other shards", { shards: [[0, 1, 2, 3]] }],
  [
    "experts moved",
    {
      shards: [
        [0, 2],
        [1, 3],
      ],
    },
  ],
])("%s is the next epoch", async (_, change) => {
  const durable = new MemoryDurable();
  await ensurePlacement(durable, subjects, wanted);
  expect(await ensurePlacement(durable, subjects, { ...wanted, ...change })).toMatchObject({ epoch: 2, ...change });
});

test("supervisors that come at once agree", async () => {
  const durable = new MemoryDurable();
  const placements = await Promise.all([1, 2, 3].map(() => ensurePlacement(durable, subjects, wanted)));
  expect(placements.map(({ epoch }) => epoch)).toEqual([1, 1, 1]);
});
