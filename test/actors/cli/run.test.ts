import { expect, test } from "vitest";
import { parseFlags } from "../../../actors/cli/flags.ts";
import { generateOptions, runCommand, runFlags } from "../../../actors/cli/run.ts";
import { upCommand } from "../../../actors/cli/up.ts";
import { rally } from "../../support/cli.ts";

/** Nothing may be started for any of these. */
const env = { RALLY_NATS_SERVER: "/no/such/nats-server", XDG_DATA_HOME: "/no/such/data" };

test.each([
  [[], 2, /PROMPT is missing/],
  [["one", "two"], 2, /one PROMPT is expected, found 2; put it in quotes/],
  [[""], 1, /prompt must be/],
  [["a\ud800"], 1, /prompt is not well-formed Unicode/],
  [["x", "--max-tokens", "0"], 2, /--max-tokens must be an integer from 1/],
  [["x", "--temperature", "2.5"], 2, /--temperature must be a number from 0 to 2, found "2.5"/],
  [["x", "--temperature", "-1"], 2, /--temperature must be a number from 0 to 2, found "-1"/],
  [["x", "--top-p", "0"], 2, /--top-p must be/],
  [["x", "--seed", "-1"], 2, /--seed must be/],
  [["x", "--stop", ""], 1, /stop must be/],
  [
    ["x", "--stop", "a", "--stop", "b", "--stop", "c", "--stop", "d", "--stop", "e"],
    1,
    /stop must be a list of at most 4/,
  ],
  [["x", "--idle-limit", "2"], 2, /--idle-limit must be an integer from 3 to 86400, found "2"/],
  [["x", "--max-kv-tokens", "10"], 2, /--max-kv-tokens must be an integer from 64 to 1000000000, found "10"/],
  [["x", "--wire", "f64"], 2, /--wire must be one of/],
  [["x", "--experts", "0"], 2, /--experts must be/],
  [["x", "--deployment", "a b"], 2, /--deployment must be 1 to 64 letters/],
  [["x", "--nats", "http://host"], 2, /NATS_URL must be/],
  [["x", "--creds", "/no/such/file"], 2, /NATS_CREDS is set but NATS_URL is not/],
  [["x", "--nats", "nats://h", "--store", "/tmp/x"], 2, /--store is for a server of our own/],
  [["x", "--frobnicate"], 2, /Unknown option '--frobnicate'/],
])("rally run %j is refused before anything starts", async (args, status, message) => {
  const run = await rally([runCommand], ["run", ...args], { env });
  expect(run.stderr).toMatch(message);
  expect(run.status).toBe(status);
  expect(run.stdout).toBe("");
});

test("an idle limit is the request's, in milliseconds, and there is none unless it is given", () => {
  const options = (...args: string[]) => generateOptions("x", parseFlags(runFlags, args).values);
  expect(options("--idle-limit", "5", "--deadline", "2.5")).toMatchObject({ idleLimitMs: 5000, deadlineMs: 2500 });
  expect(options()).not.toHaveProperty("idleLimitMs");
});

test.each([
  [["x"], /up takes flags only, found "x"/],
  [["--attention", "65"], /--attention must be an integer from 1 to 64, found "65"/],
  [["--micro-batches", "0"], /--micro-batches must be/],
])("rally up %j is refused", async (args, message) => {
  const run = await rally([upCommand], ["up", ...args], { env });
  expect(run.stderr).toMatch(message);
  expect(run.status).toBe(2);
});

test.each([
  ["text that is no UTF-8", [new Uint8Array([0x61, 0xff])], /standard input is not UTF-8 text/],
  ["nothing", [], /prompt must be/],
  ["a newline alone", ["\n"], /prompt must be/],
  ["far too much", Array.from({ length: 17 }, () => new Uint8Array(1_000_000)), /longer than 4000000 characters/],
])("standard input with %s is refused", async (_, stdin, message) => {
  const run = await rally([runCommand], ["run", "-"], { env, stdin });
  expect(run.stderr).toMatch(message);
  expect(run.status).toBe(1);
});
