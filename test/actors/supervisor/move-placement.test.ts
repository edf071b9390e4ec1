import { beforeEach, expect, test } from "vitest";
import type { Placement } from "../../../actors/protocol/messages.ts";
import { Placements } from "../../../actors/protocol/placement.ts";
import { offerRole } from "../../../actors/protocol/role-service.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { movePlacement } from "../../../actors/supervisor/move-placement.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { quiet } from "../../support/turns.ts";

const here = { deployment: "d", modelHash: "abc", shards: [[0, 1, 2, 3]], sharedExperts: "attention" } as const;

let clock: SimulatedClock;
let bus: MemoryBus;
let durable: MemoryDurable;
let placements: Placements;
let planned: Placement[];

beforeEach(async () => {
  clock = new SimulatedClock();
  bus = new MemoryBus({ clock });
  durable = new MemoryDurable({ clock });
  placements = await Placements.open(durable, subjectsOf("d"));
  await placements.ensure(here);
  planned = [];
  await placements.watch("next", (placement) => planned.push(placement), fail);
});

function fail(text: string): never {
  throw new Error(text);
}

async function move(wanted: number): Promise<Placement> {
  const interrupted = new AbortController().signal;
  const progress = () => undefined;
  const moving = movePlacement({ bus, durable, clock, deployment: "d", wanted, timeoutMs: 500, interrupted, progress });
  const ends: string[] = [];
  moving.then(
    () => ends.push("moved"),
    () => ends.push("failed"),
  );
  for (let turn = 0; turn < 200 && ends.length === 0; turn++) {
    await quiet(10);
    clock.advance(50);
  }
  return await moving;
}

test("shards move, and the shared experts stay where they are", async () => {
  for (const shard of [0, 1]) {
    const settings = { role: "expert", id: `e${shard}`, deployment: "d", epoch: 2, shard } as never;
    offerRole(bus, settings, new Date(0), async () => ({}) as never);
  }
  const { sharedExperts, ...moved } = await move(2);
  expect(moved).toMatchObject({
    epoch: 2,
    shards: [
      [0, 1],
      [2, 3],
    ],
  });
  expect(sharedExperts).toBe("attention");
  expect(await placements.read("current")).toEqual({ ...moved, sharedExperts });
  expect(planned).toEqual([{ ...moved, sharedExperts }]);
});

test("nobody is to get ready any longer for what nobody got ready for", async () => {
  await expect(move(2)).rejects.toMatchObject({ code: "timeout" });
  expect(planned.map(({ shards }) => shards.length)).toEqual([2, 0]);
  expect(await placements.read("current")).toMatchObject({ epoch: 1, ...here });
});

test("what is there already stays", async () => {
  expect(await move(1)).toMatchObject({ epoch: 1 });
  expect(planned).toEqual([]);
});
