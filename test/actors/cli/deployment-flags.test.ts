import { expect, test } from "vitest";
import { LIMIT_FLAGS, limitsOf, TOPOLOGY_FLAGS, topologyOf } from "../../../actors/cli/deployment-flags.ts";
import { type Flag, parseFlags } from "../../../actors/cli/flags.ts";
import { allowedCores } from "../../../infra/cores.ts";
import { ROLE_LIMITS } from "../../../actors/supervisor/role-limits.ts";

test("only limits that are given are passed on", () => {
  const { values } = parseFlags(TOPOLOGY_FLAGS, "--max-kv-tokens 2000 --appends-per-second=50".split(" "));
  expect(topologyOf({ ...values, deployment: "d" }).limits).toEqual({ maxKvTokens: 2000, appendsPerSecond: 50 });
  expect(limitsOf(parseFlags(LIMIT_FLAGS, []).values)).toEqual({});
});

test("taking turns leaves one micro-batch in flight, unless another number is given", () => {
  const topology = (text: string) =>
    topologyOf({ ...parseFlags(TOPOLOGY_FLAGS, text.split(" ")).values, deployment: "d" });
  expect(topology("--turns")).toMatchObject({ microBatches: 1, turns: allowedCores() });
  expect(topology("--turns --micro-batches 2").microBatches).toBe(2);
  expect(topology("--experts 1")).not.toHaveProperty("turns");
});

test("who computes the shared experts is left open unless it is said", () => {
  const topology = (args: readonly string[]) =>
    topologyOf({ ...parseFlags(TOPOLOGY_FLAGS, args).values, deployment: "d" });
  expect(topology([])).not.toHaveProperty("sharedExperts");
  expect(topology(["--shared-experts", "experts"])).toMatchObject({ sharedExperts: "experts" });
  expect(() => topology(["--shared-experts", "clients"])).toThrow(
    '--shared-experts must be one of attention, experts, found "clients"',
  );
});

test("there is a flag for every limit, and help has its default", () => {
  const flags = Object.values<Flag<unknown>>(LIMIT_FLAGS);
  const limits = Object.values(ROLE_LIMITS);
  expect(flags.map(({ help }) => help)).toEqual(limits.map(({ about }) => about));
  expect(flags.map(({ fallback }) => fallback)).toEqual(
    limits.map(({ fallback }) => (fallback === undefined ? undefined : String(fallback))),
  );
  const args = Object.keys(LIMIT_FLAGS).flatMap((name) => [`--${name}`, "100"]);
  expect(limitsOf(parseFlags(LIMIT_FLAGS, args).values)).toEqual(
    Object.fromEntries(Object.keys(ROLE_LIMITS).map((name) => [name, 100])),
  );
});

test("a limit out of its range is refused with flag, value and range", () => {
  expect(() => parseFlags(LIMIT_FLAGS, ["--max-sequences", "0"])).toThrow(
    '--max-sequences must be an integer from 1 to 1024, found "0"',
  );
});
