import { expect, test } from "vitest";
import { describeDeployments } from "../../../actors/cli/actors.ts";
import type { FoundRole } from "../../../actors/protocol/discovery.ts";

const common = { version: "1.0.0", host: "h", pid: 1, id: "x" };
const attention = (deployment: string): FoundRole => ({ ...common, role: "attention", deployment });
const expert = (deployment: string, shard: number): FoundRole => ({
  ...common,
  role: "expert",
  deployment,
  shard,
  epoch: 1,
});

test("each deployment in a few words, and whether it can serve", () => {
  const actors = [attention("b"), expert("b", 0), expert("b", 0), expert("b", 1), attention("a"), expert("c", 2)];
  expect(describeDeployments(actors)).toEqual([
    { deployment: "a", isWhole: false, description: "a: 1 attention actor, 0 expert actors of 0 shards" },
    { deployment: "b", isWhole: true, description: "b: 1 attention actor, 3 expert actors of 2 shards" },
    { deployment: "c", isWhole: false, description: "c: 0 attention actors, 1 expert actor of 1 shard" },
  ]);
  expect(describeDeployments([])).toEqual([]);
});
