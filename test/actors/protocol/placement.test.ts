import { beforeEach, describe, expect, test } from "vitest";
import { checkCovers, isNeeded, Placements } from "../../../actors/protocol/placement.ts";
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
const other = { ...wanted, shards: [[0, 1, 2, 3]] };

let placements: Placements;

beforeEach(async () => {
  placements = await Placements.open(new MemoryDurable(), subjects);
});

describe("ensure", () => {
  test("the first is epoch 1; the same again moves nothing", async () => {
    expect(await placements.ensure(wanted)).toEqual({ kind: "placement", epoch: 1, ...wanted });
    expect((await placements.ensure(wanted)).epoch).toBe(1);
    expect(await placements.read("current")).toMatchObject({ epoch: 1 });
  });

  test.each([
    ["another model", { modelHash: "def" }],
    ["other shards", { shards: [[0, 1, 2, 3]] }],
    ["shared experts elsewhere", { sharedExperts: "attention" as const }],
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
    await placements.ensure(wanted);
    expect(await placements.ensure({ ...wanted, ...change })).toMatchObject({ epoch: 2, ...change });
  });

  test("supervisors that come at once agree", async () => {
    const found = await Promise.all([1, 2, 3].map(() => placements.ensure(wanted)));
    expect(found.map(({ epoch }) => epoch)).toEqual([1, 1, 1]);
  });
});

describe("plan and publish", () => {
  test("a planned placement becomes current only when it is published", async () => {
    await placements.ensure(wanted);
    const planned = await placements.plan(other);
    expect(planned.epoch).toBe(2);
    expect(await placements.read("current")).toMatchObject({ epoch: 1 });
    expect(await placements.withEpoch(1)).toMatchObject(wanted);
    expect(await placements.withEpoch(2)).toMatchObject(other);
    expect(await placements.publish(planned)).toEqual(planned);
    expect(await placements.read("current")).toEqual(planned);
    // Once more, by somebody who did not see the answer.
    expect(await placements.publish(planned)).toEqual(planned);
  });

  test("no epoch is given twice, though a plan is passed over", async () => {
    await placements.ensure(wanted);
    const first = await placements.plan(other);
    const second = await placements.plan(other);
    expect([first.epoch, second.epoch]).toEqual([2, 3]);
    await expect(placements.publish(first)).rejects.toMatchObject({ code: "stale-epoch" });
    expect((await placements.ensure(other)).epoch).toBe(4);
    await expect(placements.publish(second)).rejects.toMatchObject({ code: "stale-epoch" });
    expect(await placements.withEpoch(2)).toBeUndefined();
  });

  test("whoever plans at the same moment gets another epoch", async () => {
    const planned = await Promise.all([placements.plan(wanted), placements.plan(other)]);
    expect(new Set(planned.map(({ epoch }) => epoch))).toEqual(new Set([1, 2]));
  });

  test("both are watched apart", async () => {
    const seen = { current: [] as number[], next: [] as number[] };
    for (const key of ["current", "next"] as const) {
      await placements.watch(
        key,
        ({ epoch }) => seen[key].push(epoch),
        () => undefined,
      );
    }
    await placements.ensure(wanted);
    await placements.publish(await placements.plan(other));
    await new Promise<void>((resolve) => void setImmediate(resolve));
    expect(seen).toEqual({ current: [1, 2], next: [2] });
  });
});

test("an epoch is needed while it is current, and before that while it is the next", () => {
  const needed = (epoch: number, current: number, next: number) => isNeeded(epoch, { current, next });
  expect([needed(2, 2, 0), needed(2, 1, 2), needed(2, 2, 3), needed(2, 2, 2)]).toEqual([true, true, true, true]);
  expect([needed(1, 2, 2), needed(2, 1, 3), needed(2, 3, 2), needed(2, 3, 4)]).toEqual([false, false, false, false]);
});

test("a placement that leaves an expert out is found", () => {
  const placement = { kind: "placement", epoch: 1, ...wanted } as const;
  expect(() => checkCovers(placement, 4)).not.toThrow();
  expect(() => checkCovers(placement, 5)).toThrow(/expert 4 is in no shard/u);
});
