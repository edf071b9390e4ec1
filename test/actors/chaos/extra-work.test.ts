import { expect, test } from "vitest";
import { workBetween, workSums } from "../../../actors/chaos/extra-work.ts";
import type { RoleStats } from "../../../actors/protocol/role.ts";

const attention = (id: string, retries: number, preemptions: number) =>
  ({ role: "attention", id, retries, preemptions }) as RoleStats;

test("what attention actors did in between, also those that have only then started", async () => {
  const sums = (...stats: RoleStats[]) => workSums({ stats: async () => stats });
  const before = await sums(attention("a", 5, 1), attention("gone", 90, 9), { role: "expert", id: "e" } as RoleStats);
  const after = await sums(attention("a", 8, 1), attention("new", 2, 4));
  expect(workBetween(before, after)).toEqual({ resends: 5, preemptions: 4 });
});

test("a deployment that does not tell has done none", async () => {
  const none = await workSums({ stats: async () => undefined });
  expect(workBetween(none, none)).toEqual({ resends: 0, preemptions: 0 });
});
