import { beforeEach, describe, expect, test } from "vitest";
import type { FoundRole } from "../../../actors/protocol/discovery.ts";
import { Placements, type Wanted } from "../../../actors/protocol/placement.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { checkShards, placementFor } from "../../../actors/supervisor/membership.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import type { KeyValue } from "../../../infra/durable.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { quiet } from "../../support/turns.ts";

const two = { deployment: "d", modelHash: "abc", shards: [[0, 1], [2]] };
const three = { ...two, shards: [[0], [1], [2]] };
const someone = { role: "expert", id: "expert-0-x", version: "1.0.0", deployment: "d", host: "h", pid: 1 } as FoundRole;

const subjects = subjectsOf("d");

let clock: SimulatedClock;
let bucket: KeyValue;
let placements: Placements;
let present: FoundRole[];
let warnings: string[];

beforeEach(async () => {
  const durable = new MemoryDurable();
  clock = new SimulatedClock();
  bucket = await durable.keyValue(subjects.placementBucket);
  placements = await Placements.open(durable, subjects);
  present = [];
  warnings = [];
});

function place(source: "make" | "adopt" | "join", wanted: Wanted = two, asksForShared = false) {
  const warn = (text: string) => void warnings.push(text);
  const others = async () => present;
  return placementFor({ source, wanted, asksForShared, numExperts: 3, placements, clock, others, warn });
}

async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 250) {
    await quiet(10);
    clock.advance(250);
  }
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

describe("where others compute the shared experts of the deployment", () => {
  const here: Wanted = { ...two, sharedExperts: "attention" };
  beforeEach(() => placements.ensure(three));

  test("adopt leaves the shards and moves the shared experts if nobody is there", async () => {
    expect(await place("adopt", here)).toMatchObject({ epoch: 2, shards: three.shards, sharedExperts: "attention" });
    expect(await place("adopt", here)).toMatchObject({ epoch: 2 });
  });

  test("adopt takes it as it is where somebody is, unless the shared experts were asked for", async () => {
    present = [someone];
    const found = await place("adopt", here);
    expect([found.epoch, found.sharedExperts]).toEqual([1, undefined]);
    await expect(place("adopt", here, true)).rejects.toMatchObject({
      code: "bad-settings",
      fields: { field: "--shared-experts", found: "attention", expected: "experts" },
    });
    expect(await place("adopt", two, true)).toMatchObject({ epoch: 1 });
  });

  test("make says of them rather than of the shards", async () => {
    present = [someone];
    await expect(place("make", here)).rejects.toMatchObject({ fields: { field: "--shared-experts" } });
    present = [];
    expect(await place("make", here)).toMatchObject({ epoch: 2, shards: two.shards, sharedExperts: "attention" });
  });

  test("join takes them as they are", async () => {
    expect((await place("join", here)).sharedExperts).toBeUndefined();
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

describe("where the current placement makes no sense", () => {
  const forged = { kind: "placement", epoch: 1, ...two } as const;
  const nonsense: [string, Uint8Array, RegExp][] = [
    ["no placement at all", Uint8Array.of(1, 2, 3), /cannot be read/u],
    ["no bytes", new Uint8Array(), /cannot be read/u],
    ["an epoch that nobody has given", encode({ ...forged, epoch: 2 ** 53 - 1 }), /epoch must be at most 2/u],
    ["an expert in no shard", encode({ ...forged, shards: [[0, 1]] }), /expert 2 is in no shard/u],
    ["an expert that does not exist", encode({ ...forged, shards: [[0, 1, 2, 7]] }), /there is no expert 7/u],
    [
      "thousands of shards",
      encode({ ...forged, shards: [[0, 1, 2], ...Array.from({ length: 5000 }, () => [])] }),
      /at most 64/u,
    ],
  ];

  describe.each(nonsense)("%s", (_, bytes, why) => {
    beforeEach(async () => {
      await placements.ensure(three);
      await bucket.put("current", bytes);
    });

    test.each(["make", "adopt"] as const)(
      "%s makes it anew, with a warning and an epoch of its own",
      async (source) => {
        const made = await place(source);
        expect(made.shards).toEqual(two.shards);
        expect(made.epoch).toBeGreaterThan(1);
        expect(await placements.read("current")).toEqual(made);
        expect(warnings).toHaveLength(1);
        expect(warnings[0]).toMatch(why);
        expect((await place(source)).epoch).toBe(made.epoch);
      },
    );

    test("join does not", async () => {
      await expect(place("join")).rejects.toMatchObject({ code: "bad-message" });
    });
  });

  test("those who serve it are waited for: they put it back", async () => {
    await placements.ensure(three);
    await bucket.put("current", Uint8Array.of(1));
    present = [someone];
    const placed = place("join");
    await pass(1000);
    await placements.restore({ kind: "placement", epoch: 1, ...three }, () => false);
    await pass(1000);
    expect(await placed).toMatchObject({ epoch: 1, shards: three.shards });
    expect(warnings).toEqual([]);
  });

  test("if they do not, what they serve decides", async () => {
    await bucket.put("current", Uint8Array.of(1));
    present = [
      { ...someone, epoch: 4, shard: 2 },
      { ...someone, epoch: 4, shard: 0 },
      { ...someone, epoch: 3, shard: 5 },
    ];
    const placed = place("adopt");
    await pass(6000);
    expect((await placed).shards).toEqual(three.shards);
    expect(warnings[0]).toContain("3 shards");
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
