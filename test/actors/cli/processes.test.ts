import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { RallyClient } from "../../../actors/client/rally-client.ts";
import { packageRoot } from "../../../infra/own-file.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";
import { RallyHome, type RallyProcess } from "../../support/rally-home.ts";

/** `rally` as its users have it: real processes over a real nats-server, in folders of the test's own. */
let home: RallyHome;
let base: string;

beforeAll(async () => {
  home = await RallyHome.make("own");
  base = home.base;
  const modelDir = path.join(base, "model");
  writeRandomCheckpoint(modelDir, { ...SMALL_MODEL, vocab_size: 4096 }, { seed: 3 });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(path.join(packageRoot, "models/step3-tiny", name), path.join(modelDir, name));
  }
});

afterEach(() => home.endAll());
afterAll(() => home.remove());

function rally(...args: readonly string[]): RallyProcess {
  const model = ["up", "run", "join"].includes(args[0] ?? "") ? ["--model", path.join(base, "model")] : [];
  return start([...args, ...model]);
}

function start(args: readonly string[]): RallyProcess {
  return home.rally(args);
}

async function expectNothingLeft(): Promise<void> {
  await home.expectNothingLeft();
}

interface RunAnswer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly outputTokens: number;
  readonly topology: { readonly ephemeral: boolean; readonly nats: { readonly url: string } };
}

test("run streams a text and leaves nothing behind; the same seed is the same text", async () => {
  const plain = rally("run", "Once upon a time", "--max-tokens", "20", "--seed", "7");
  expect(await plain.status).toBe(0);
  expect(plain.output.stderr).toMatch(/\d+ prompt tokens, 20 output tokens, ended by --max-tokens, seed 7/);
  expect(plain.output.stderr).toMatch(/first token after .* tokens\/s/);
  expect(plain.output.stderr).toMatch(
    /1 attention actor, 2 expert shards.*nats-server \d+\.\d+\.\d+ \(RALLY_NATS_SERVER/,
  );
  await expectNothingLeft();

  const trace = path.join(base, "trace.json");
  const json = rally("run", "Once upon a time", "--max-tokens", "20", "--seed", "7", "--json", "--trace", trace);
  expect(await json.status).toBe(0);
  const answer = JSON.parse(json.output.stdout) as RunAnswer & Record<string, unknown>;
  expect(Object.keys(answer)).toEqual(
    expect.arrayContaining([
      "text",
      "tokenIds",
      "promptTokens",
      "outputTokens",
      "ttftMs",
      "tokensPerSecond",
      "finishReason",
    ]),
  );
  expect(answer.tokenIds).toHaveLength(20);
  expect(`${answer.text}\n`).toBe(plain.output.stdout);
  const { traceEvents } = JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: { name: string; pid: number }[] };
  expect(new Set(traceEvents.map(({ pid }) => pid)).size).toBe(3);
  await expectNothingLeft();
});

test("Ctrl-C cancels: status 130, nothing left, whether it runs or only starts", async () => {
  const runs = rally("run", "Once", "--max-tokens", "1000", "--temperature", "1");
  await new Promise<void>((resolve) => runs.child.stdout?.once("data", () => resolve()));
  runs.child.kill("SIGINT");
  expect(await runs.status).toBe(130);
  await expectNothingLeft();
  const starts = rally("run", "Once");
  while (home.natsServerPids().length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  starts.child.kill("SIGINT");
  expect(await starts.status).toBe(130);
  await expectNothingLeft();
});

test("a reader that goes away ends it without complaint", async () => {
  const run = rally("run", "Once", "--max-tokens", "1000");
  await new Promise<void>((resolve) => run.child.stdout?.once("data", () => resolve()));
  run.child.stdout?.destroy();
  expect(await run.status).toBe(0);
  expect(run.output.stderr).not.toMatch(/EPIPE|rally:/);
  await expectNothingLeft();
});

test.skipIf(existsSync("/proc/driver/nvidia"))("cuda without a GPU is an error and starts nothing", async () => {
  for (const args of [
    ["up"],
    ["run", "Once"],
    ["join", "--replicas", "1", "--nats", "nats://127.0.0.1:1"],
    ["bench"],
  ]) {
    const refused = rally(...args, "--provider", "cuda", "--json");
    expect(await refused.status).toBe(1);
    expect(refused.output.stdout).toContain('"code":"provider-unavailable"');
    expect(refused.output.stderr).toMatch(/NVIDIA driver: none[\s\S]*rally doctor --provider cuda/);
    await expectNothingLeft();
  }
});

test("a supervisor killed outright takes everything with it", async () => {
  const run = rally("run", "Once", "--max-tokens", "1000");
  await new Promise<void>((resolve) => run.child.stdout?.once("data", () => resolve()));
  run.child.kill("SIGKILL");
  expect(await run.status).toBeNull();
  await expectNothingLeft();
});

test("up serves run and clients, is there once, restarts what dies and drains", async () => {
  const up = rally("up", "--json", "--replicas", "2");
  await up.said('"event":"ready"');
  const { pid, topology } = JSON.parse(up.output.stdout) as { pid: number } & Pick<RunAnswer, "topology">;
  expect(pid).toBe(up.child.pid);

  const run = start(["run", "Once upon a time", "--max-tokens", "5", "--json"]);
  expect(await run.status).toBe(0);
  expect((JSON.parse(run.output.stdout) as RunAnswer).topology).toEqual({ ...topology, ephemeral: false });

  const second = rally("up");
  expect(await second.status).toBe(2);
  expect(second.output.stderr).toContain(`deployment default is already up, as process ${pid}`);

  const client = await RallyClient.connect({ url: topology.nats.url });
  try {
    const generation = client.generate({ prompt: "The sea", maxTokens: 60, sampling: { seed: 5 } });
    for (const expert of home.actorPids("expert-0-0")) process.kill(expert, "SIGKILL");
    const ids: number[] = [];
    for await (const { index, id } of generation) {
      expect(index).toBe(ids.length);
      ids.push(id);
    }
    expect(ids).toHaveLength((await generation.result).outputTokens);
    await up.said('"event":"restarted","source":"expert-0-0"');
    const rest: number[] = [];
    for await (const { id } of client.resume(generation.requestId, 10)) rest.push(id);
    expect(rest).toEqual(ids.slice(10));
    await expect(client.resume("nobody").result).rejects.toMatchObject({ code: "unknown-request" });
  } finally {
    await client.close();
  }

  up.child.kill("SIGTERM");
  expect(await up.status).toBe(0);
  expect(up.output.stdout).toContain('{"event":"stopped"}');
  await expectNothingLeft();
});

test("an existing server is used and left as it was", async () => {
  const up = rally("up", "--deployment", "other");
  await up.said("up; Ctrl-C ends it");
  const url = /nats:\/\/[\d.:]+/.exec(up.output.stderr)?.[0] ?? "";
  const run = rally("run", "Once", "--nats", url, "--max-tokens", "3", "--json");
  expect(await run.status).toBe(0);
  expect((JSON.parse(run.output.stdout) as RunAnswer).topology).toMatchObject({
    ephemeral: true,
    nats: { url, source: "existing" },
  });
  const streams = path.join(base, "data/rally/other/store/jetstream/$G/streams");
  expect(readdirSync(streams).toSorted()).toEqual([
    "KV_rally_other_placement",
    "RALLY_other_REQUESTS",
    "RALLY_other_TOKENS",
  ]);
  const named = start(["run", "Once", "--nats", url, "--deployment", "other", "--max-tokens", "3", "--json"]);
  expect(await named.status).toBe(0);
  expect((JSON.parse(named.output.stdout) as RunAnswer).topology.ephemeral).toBe(false);
  up.child.kill("SIGINT");
  expect(await up.status).toBe(0);
  await expectNothingLeft();
});

test("an idle deployment stops within a second", async () => {
  const startedAt = performance.now();
  const up = rally("up", "--json");
  await up.event("ready");
  const from = performance.now();
  up.child.kill("SIGTERM");
  expect(await up.status).toBe(0);
  // Half a second on an idle machine; a pull that is waited for would take one more. A machine that is slow now was so before.
  expect(performance.now() - from).toBeLessThan(Math.max(1_300, from - startedAt));
  await expectNothingLeft();
});

test("what a broken server and a killed command left in the temporary folder, the next one removes", async () => {
  const first = rally("run", "Once", "--max-tokens", "1000");
  await new Promise<void>((resolve) => first.child.stdout?.once("data", () => resolve()));
  const [server = 0] = home.natsServerPids();
  process.kill(server, "SIGKILL");
  await first.said("nats-server: it has ended");
  while (home.natsServerPids().length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  await home.killEverything();
  const temporary = () => readdirSync(path.join(base, "tmp"));
  expect(temporary()).toEqual([expect.stringMatching(/^rally-nats-/u)]);
  const second = rally("run", "Once", "--max-tokens", "1");
  expect(await second.status).toBe(0);
  await expectNothingLeft();
});

test("ps shows what runs, up to its sums", async () => {
  const up = rally("up", "--json");
  await up.event("ready");
  expect(await start(["run", "Once", "--max-tokens", "5"]).status).toBe(0);
  const ps = start(["ps"]);
  expect(await ps.status).toBe(0);
  expect(ps.output.stdout).toMatch(/^ROLE .*\nattention +attention-0-\w{8} .* [1-9]\d* tokens/u);
  expect(ps.output.stdout.match(/\nexpert +expert-\d-\w{8} +\d@1 /gu)).toHaveLength(2);
  const json = start(["ps", "--json"]);
  expect(await json.status).toBe(0);
  const { actors } = JSON.parse(json.output.stdout) as { actors: { pid: number; deployment: string }[] };
  expect(actors.map(({ pid }) => pid).toSorted((a, b) => a - b)).toEqual(
    [...home.actorPids("attention"), ...home.actorPids("expert")].toSorted((a, b) => a - b),
  );
  up.child.kill("SIGTERM");
  expect(await up.status).toBe(0);
  expect(await start(["ps"]).status).toBe(1);
});

test("a data folder that cannot be written to is said so", async () => {
  const blocked = path.join(base, "blocked");
  mkdirSync(blocked);
  copyFileSync("/dev/null", path.join(blocked, "rally"));
  const up = home.rally(["up", "--json"], { data: "blocked" });
  expect(await up.status).toBe(1);
  expect(JSON.parse(up.output.stdout)).toMatchObject({ error: { code: "store-unavailable" } });
  expect(up.output.stderr).not.toContain("internal error");
});
