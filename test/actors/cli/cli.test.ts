import { describe, expect, test } from "vitest";
import type { Command } from "../../../actors/cli/command.ts";
import { COMMANDS } from "../../../actors/cli/commands.ts";
import { switchFlag, textFlag } from "../../../actors/cli/flags.ts";
import { RallyError } from "../../../infra/errors.ts";
import { rally } from "../../support/cli.ts";

function command(run: Command["run"]): Command {
  return {
    name: "try",
    summary: "tries something",
    usage: "THING [flags]",
    description: "Tries it.",
    examples: [["rally try it", "once"]],
    flags: { json: switchFlag("as JSON"), file: textFlag("FILE", "where to") },
    run,
  };
}

const failing = (error: unknown) => command(() => Promise.reject(error));

describe("help", () => {
  test("rally alone is wrong usage, and says what there is", async () => {
    const { status, stdout, stderr } = await rally(COMMANDS, []);
    expect(status).toBe(2);
    expect(stdout).toBe("");
    for (const { name, summary } of COMMANDS) expect(stderr).toMatch(new RegExp(`^  ${name} +${summary}$`, "m"));
  });

  test.each([["--help"], ["-h"], ["help"]])("rally %s", async (flag) => {
    const { status, stdout } = await rally(COMMANDS, [flag]);
    expect(status).toBe(0);
    expect(stdout).toContain("Usage: rally COMMAND");
  });

  test.each(COMMANDS.map((each) => [each.name, each] as const))(
    "of %s names every flag and fits a terminal",
    async (name, each) => {
      const { status, stdout } = await rally(COMMANDS, [name, "--help"]);
      expect(status).toBe(0);
      for (const flag of Object.keys(each.flags)) expect(stdout).toMatch(new RegExp(`^ {2}--${flag}( |$)`, "m"));
      expect(stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
      expect((await rally(COMMANDS, ["help", name])).stdout).toBe(stdout);
    },
  );

  test("after -- is an argument like any other", async () => {
    const { status } = await rally([command(async (args) => args.length)], ["try", "--", "--help"]);
    expect(status).toBe(2);
  });

  test("--version", async () => {
    expect((await rally(COMMANDS, ["--version"])).stdout).toMatch(/^rally \d+\.\d+\.\d+\n$/);
  });
});

describe("errors", () => {
  test("an unknown command is named, with those there are", async () => {
    const { status, stderr } = await rally(COMMANDS, ["frob"]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^rally: unknown command "frob"; commands: run, up, .*\(see rally --help\)\n$/);
  });

  test("are one line and status 1", async () => {
    const { status, stdout, stderr } = await rally([failing(new RallyError("bad-model", "no such file"))], ["try"]);
    expect([status, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^rally: no such file \(rally doctor .*\)\n$/);
  });

  test("of usage have status 2 and point to the help", async () => {
    const { status, stderr } = await rally([failing(new RallyError("bad-settings", "--x is wrong"))], ["try"]);
    expect([status, stderr]).toEqual([2, "rally: --x is wrong (see rally try --help)\n"]);
  });

  test("overload says when to come back", async () => {
    const error = new RallyError("overloaded", "the queue is full", { retryAfterMs: 250 });
    expect((await rally([failing(error)], ["try"])).stderr).toBe("rally: the queue is full (try again in 250 ms)\n");
  });

  test("with --json are an object on stdout too", async () => {
    const error = new RallyError("context-exceeded", "too long", { limit: 1024 });
    const { status, stdout } = await rally([failing(error)], ["try", "--json"]);
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      error: { code: "context-exceeded", message: "too long", fields: { limit: 1024 } },
    });
  });

  test("of ours come with their stack", async () => {
    const { status, stderr } = await rally([failing(new TypeError("x is not a function"))], ["try"]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^rally: internal error, please report it: TypeError: x is not a function\n +at /);
  });
});

describe("interrupted", () => {
  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ])("by %s: status %i and no complaint", async (signal, expected) => {
    const interrupt = new AbortController();
    interrupt.abort(signal);
    const cancelled = failing(new RallyError("cancelled", "it was cancelled"));
    const { status, stderr } = await rally([cancelled], ["try"], { interrupt });
    expect([status, stderr]).toEqual([expected, ""]);
  });

  test("a command that ends well all the same keeps its status", async () => {
    const interrupt = new AbortController();
    interrupt.abort("SIGINT");
    expect((await rally([command(async () => 0)], ["try"], { interrupt })).status).toBe(0);
  });
});
