import { beforeEach, describe, expect, test } from "vitest";
import type { FoundRole } from "../../../actors/protocol/discovery.ts";
import { Placements } from "../../../actors/protocol/placement.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { checkShards, placementFor } from "../../../actors/supervisor/membership.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";

const two = { deployment: "d", modelHash: "abc", shards: [[0, 1], [2]] };
const three = { ...two, shards: [[0], [1], [2]] };
const someone = { role: "expert", id: "expert-0-x", version: "1.0.0", deployment: "d", host: "h", pid: 1 } as FoundRole;

let placements: Placements;
let present: FoundRole[];

beforeEach(async () => {
  placements = await Placements.open(new MemoryDurable(), subjectsOf("d"));
  present = [];
});

function place(source: "make" | "adopt" | "join", wanted = two) {
  return placementFor({ source, wanted, placements, others: async () => present });
}

test.each(["make", "adopt"] as const)("%s: the first one makes the placement", async (source) => {
  expect(await place(source)).toMatchObject({ epoch: 1, shards: two.shards });
});

describe("where the deployment has another number of shards", () => {
  beforeEach(() => placements.ensure(three));

  test("adopt takes it, whether others are there or not", async () => {
    expect(await place("adopt")).toMatchObject({ epoch: 1, shards: three.shards });
    present = [someone];
    expect(await place("adopt")).toMatchObject({ epoch: 1, shards: three.shards });
  });

  test("make changes it if nobody serves it, and is refused otherwise", async () => {
    present = [someone];
    await expect(place("make")).rejects.toMatchObject({
      code: "bad-settings",
      fields: { field: "--experts", found: 2, expected: 3 },
    });
    present = [];
    expect(await place("make")).toMatchObject({ epoch: 2, shards: two.shards });
  });

  test("join takes it", async () => {
    expect(await place("join")).toMatchObject({ epoch: 1, shards: three.shards });
  });
});

describe("where the deployment has another model", () => {
  beforeEach(() => placements.ensure({ ...two, modelHash: "def" }));

  test("nobody changes it while others serve it", async () => {
    present = [someone];
    for (const source of ["make", "adopt", "join"] as const) {
      await expect(place(source)).rejects.toMatchObject({ code: "bad-model" });
    }
  });

  test("alone one does", async () => {
    expect(await place("adopt")).toMatchObject({ epoch: 2, modelHash: "abc" });
  });
});

test("there is nothing to join where nothing was placed", async () => {
  await expect(place("join")).rejects.toMatchObject({ code: "unknown-deployment" });
});

test("shards that do not exist are named", async () => {
  const placement = await place("make");
  expect(() => checkShards(placement, [0, 1])).not.toThrow();
  expect(() => checkShards(placement, undefined)).not.toThrow();
  expect(() => checkShards(placement, [0, 2])).toThrow("shard 2 does not exist: the deployment has 0 to 1");
});
