import { expect, test } from "vitest";
import { tableOf } from "../../../actors/cli/ps.ts";
import type { FoundRole } from "../../../actors/protocol/discovery.ts";
import type { RoleStats } from "../../../actors/protocol/role.ts";

const common = { version: "1.0.0", deployment: "d", host: "h" };
const expertStats = {
  role: "expert",
  elapsedMs: 65_000,
  busyMs: 13_000,
  waiting: 2,
  rows: 900,
  rssBytes: 100 << 20,
} as RoleStats;
const attentionStats = {
  role: "attention",
  elapsedMs: 7_260_000,
  busyMs: 0,
  activeSequences: 2,
  waitingSequences: 1,
  decodeTokens: 50,
  rssBytes: 150 << 20,
} as RoleStats;

test("a line for each actor, in columns", () => {
  const actors: FoundRole[] = [
    { ...common, role: "attention", id: "attention-0-ab", pid: 7, stats: attentionStats },
    { ...common, role: "expert", id: "expert-1-cd", pid: 12, shard: 1, epoch: 3, stats: expertStats },
    { ...common, role: "expert", id: "x", pid: 13, shard: 0, epoch: 3 },
  ];
  expect(tableOf(actors, false)).toEqual([
    "ROLE       ID              SHARD  HOST  PID  UP         BUSY  LOAD       DONE       MEMORY",
    "attention  attention-0-ab  -      h     7    2 h 1 min  0%    3 seq      50 tokens  150 MiB",
    "expert     expert-1-cd     1@3    h     12   1 min      20%   2 waiting  900 rows   100 MiB",
    "expert     x               0@3    h     13   ?          ?     ?          ?          ?",
  ]);
  expect(tableOf(actors, true)[1]).toMatch(/^d {11}attention/u);
});

test("nobody is said, too", () => {
  expect(tableOf([], false)).toEqual(["no actors"]);
});
