import { expect, test } from "vitest";
import { parseFlags } from "../../../actors/cli/flags.ts";
import { splitFlag } from "../../../actors/cli/split.ts";

const read = (text?: string) =>
  parseFlags({ split: splitFlag("x") }, text === undefined ? [] : ["--split", text]).values.split;

test("shards of experts and ranges of them, in ascending order", () => {
  expect(read("0-3/4,5/7,6")).toEqual([
    [0, 1, 2, 3],
    [4, 5],
    [6, 7],
  ]);
  expect(read("2")).toEqual([[2]]);
  expect(read("3-3, 1")).toEqual([[1, 3]]);
  expect(read()).toBeUndefined();
});

test.each(["", "0-", "a", "0//1", "0/1/", "3-1", "0;1", "-1", "0,,1", "999999"])("%j is no split", (text) => {
  expect(() => read(text)).toThrow(/--split must be the experts of each shard, e.g. 0-3\/4,5\/6,7, found/u);
});

test("an expert in two shards, and too many shards, are named", () => {
  expect(() => read("0-3/3-5")).toThrow("--split has expert 3 twice");
  expect(() => read(Array.from({ length: 65 }, (_, i) => i).join("/"))).toThrow(
    /at most 64 shards, found "65 shards"/u,
  );
});
