import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { RallyClient } from "../../../actors/client/rally-client.ts";
import { findNatsServer } from "../../../infra/nats-server.ts";
import { compiledFile, packageRoot } from "../../../infra/own-file.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";

/** `rally` as its users have it: real processes over a real nats-server, in folders of the test's own. */
let base: string;
let env: NodeJS.ProcessEnv;
const running = new Set<ChildProcess>();

beforeAll(async () => {
  base = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  const modelDir = path.join(base, "model");
  writeRandomCheckpoint(modelDir, { ...SMALL_MODEL, vocab_size: 4096 }, { seed: 3 });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(path.join(packageRoot, "models/step3-tiny", name), path.join(modelDir, name));
  }
  mkdirSync(path.join(base, "tmp"));
  const { NATS_URL: _, ...inherited } = process.env;
  env = {
    ...inherited,
    RALLY_NATS_SERVER: (await findNatsServer()).path,
    XDG_CACHE_HOME: path.join(base, "cache"),
    XDG_DATA_HOME: path.join(base, "data"),
    TMPDIR: path.join(base, "tmp"),
  };
});

afterEach(() => {
  for (const child of running) child.kill("SIGKILL");
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

interface Rally {
  readonly child: ChildProcess;
  readonly output: { stdout: string; stderr: string };
  readonly status: Promise<number | null>;
  /** Resolves once stdout or stderr holds the text. */
  said(text: string): Promise<void>;
}

function rally(...args: readonly string[]): Rally {
  const model = args[0] === "up" || args[0] === "run" ? ["--model", path.join(base, "model")] : [];
  return start([...args, ...model]);
}

function start(args: readonly string[]): Rally {
  const child = spawn(process.execPath, [compiledFile("actors/cli/main"), ...args], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  const output = { stdout: "", stderr: "" };
  const waiting = new Set<() => void>();
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
      for (const look of waiting) look();
    });
  }
  const status = new Promise<number | null>((resolve) => {
    child.on("close", (code) => {
      running.delete(child);
      resolve(code);
    });
  });
  const said = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => (output.stdout + output.stderr).includes(text) && resolve();
      waiting.add(look);
      look();
      void status.then((code) => reject(new Error(`ended with ${code} before saying ${text}: ${output.stderr}`)));
    });
  return { child, output, status, said };
}

/** Every process of a deployment of this test knows the test's folder by its environment. */
function processesLeft(): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/environ`, "utf8").includes(`TMPDIR=${base}`);
    } catch {
      return false;
    }
  });
}

async function expectNothingLeft(): Promise<void> {
  // A process that has just been ended is there a moment longer.
  for (let tries = 0; tries < 30 && processesLeft().length > 0; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(processesLeft()).toEqual([]);
  expect(readdirSync(path.join(base, "tmp"))).toEqual([]);
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
  await new Promise((resolve) => setTimeout(resolve, 400));
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
    const expert = Number(processesLeft().find((candidate) => roleOf(candidate).startsWith("expert-0-0")));
    process.kill(expert, "SIGKILL");
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
}, 60_000);

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
}, 60_000);

function roleOf(pid: string): string {
  const role = /RALLY_ROLE=(\{[^\0]*\})/.exec(readFileSync(`/proc/${pid}/environ`, "utf8"))?.[1];
  return role === undefined ? "" : (JSON.parse(role) as { id: string }).id;
}
