import { describe, expect, test } from "vitest";
import {
  choiceFlag,
  integerFlag,
  listFlag,
  numberFlag,
  orWord,
  parseFlags,
  switchFlag,
  textFlag,
} from "../../../actors/cli/flags.ts";

const flags = {
  count: integerFlag("N", "how many", { min: 1, max: 9 }, 3),
  seed: integerFlag("N", "seed", { min: 0, max: Number.MAX_SAFE_INTEGER }),
  heat: numberFlag("T", "heat", { min: 0, max: 2 }, 0.8),
  wire: choiceFlag(["f32", "f16"], "wire", "f32"),
  batches: orWord("auto", integerFlag("N", "batches", { min: 1, max: 4 }, 1)),
  stop: listFlag("TEXT", "stop"),
  name: textFlag("NAME", "name", "default"),
  file: textFlag("FILE", "file"),
  json: switchFlag("json"),
};

test("defaults", () => {
  const { values, positionals, given } = parseFlags(flags, []);
  expect(values).toEqual({
    count: 3,
    seed: undefined,
    heat: 0.8,
    wire: "f32",
    batches: "auto",
    stop: [],
    name: "default",
    file: undefined,
    json: false,
  });
  expect(positionals).toEqual([]);
  expect(given.size).toBe(0);
});

test("given, in both spellings, before and after the arguments", () => {
  const args = "--count 5 one --seed=9007199254740991 --heat .5 --wire f16 --batches 2 --json --file x two".split(" ");
  const { values, positionals, given } = parseFlags(flags, args);
  expect(values).toMatchObject({
    count: 5,
    seed: 2 ** 53 - 1,
    heat: 0.5,
    wire: "f16",
    batches: 2,
    json: true,
    file: "x",
  });
  expect(positionals).toEqual(["one", "two"]);
  expect(given).toEqual(new Set(["count", "seed", "heat", "wire", "batches", "json", "file"]));
});

test("the last of a flag counts, all of a repeated one", () => {
  const { values } = parseFlags(flags, ["--count", "1", "--count", "2", "--stop", "a", "--stop", ""]);
  expect(values.count).toBe(2);
  expect(values.stop).toEqual(["a", ""]);
});

test("- and what follows -- are arguments", () => {
  expect(parseFlags(flags, ["-"]).positionals).toEqual(["-"]);
  expect(parseFlags(flags, ["--", "--json"]).positionals).toEqual(["--json"]);
});

test("the word of a flag that takes one", () => {
  expect(parseFlags(flags, ["--batches", "auto"]).values.batches).toBe("auto");
});

describe("refusals name the flag, what was found and what is allowed", () => {
  test.each([
    [["--count", "0"], '--count must be an integer from 1 to 9, found "0"'],
    [["--count", "1.5"], '--count must be an integer from 1 to 9, found "1.5"'],
    [["--count", "-3"], '--count must be an integer from 1 to 9, found "-3"'],
    [["--count", "0x5"], '--count must be an integer from 1 to 9, found "0x5"'],
    [["--count", ""], '--count must be an integer from 1 to 9, found ""'],
    [["--seed", "9007199254740993"], "--seed must be an integer from 0 to 9007199254740991"],
    [["--heat", "2.1"], '--heat must be a number from 0 to 2, found "2.1"'],
    [["--heat", "-.5"], '--heat must be a number from 0 to 2, found "-.5"'],
    [["--heat", "NaN"], '--heat must be a number from 0 to 2, found "NaN"'],
    [["--wire", "f8"], '--wire must be one of f32, f16, found "f8"'],
    [["--batches", "many"], '--batches must be an integer from 1 to 4, found "many"'],
    [["--nonsense"], "Unknown option '--nonsense'"],
    [["-x"], "Unknown option '-x'"],
    [["--count"], "Option '--count <value>' argument missing"],
    [["--json=yes"], "Option '--json' does not take an argument"],
    [["--count", "x".repeat(100)], "--count must be an integer from 1 to 9, found 100 characters"],
  ])("%j", (args, message) => {
    expect(() => parseFlags(flags, args)).toThrow(expect.objectContaining({ code: "bad-settings" }));
    expect(() => parseFlags(flags, args)).toThrow(message);
  });
});
