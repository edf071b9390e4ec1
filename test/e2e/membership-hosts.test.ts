import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { FoundRole } from "../../actors/protocol/discovery.ts";
import { canRun, tool } from "../support/host-tools.ts";
import { sleep } from "../support/load.ts";
import { RallyHome } from "../support/rally-home.ts";

const ip = (...args: readonly string[]) => tool("ip", ...args);
const ENTER = ["ip", "netns", "exec"] as const;
/** Processes in there do not see those outside, and end with the first of them. */
const APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] as const;

const canMakeHosts =
  canRun("ip", "netns", "add", "rally-probe") &&
  canRun("ip", "netns", "delete", "rally-probe") &&
  canRun(...APART, "true");

/** Long enough that its prefill is what goes through shared memory where that can be. */
const PROMPT =
  "In the year 1851 a ship left the harbour of Bristol with forty men on board, of whom only one came home again, " +
  "and he was so old and so tired that nobody in the town knew him any more, not even his own sister";

interface Answer {
  readonly tokenIds: readonly number[];
}

/**
 * Two hosts, as network namespaces with processes that do not see each other: one has the server and reaches it by its own
 * address, the other comes over the wire.
 */
describe.skipIf(!canMakeHosts)("two hosts", () => {
  const [near, far] = [`rally-a-${process.pid}`, `rally-b-${process.pid}`];
  const inNear = { prefix: [...ENTER, near] };
  const inFar = {
    prefix: [...ENTER, far, ...APART],
    data: "data-far",
  };
  const [nearUrl, farUrl] = ["nats://127.0.0.1:4222", "nats://10.213.7.1:4222"];
  let home: RallyHome;
  let server: ChildProcess;

  beforeEach(async () => {
    home = await RallyHome.make();
    for (const name of [near, far]) {
      ip("netns", "add", name);
      ip("-n", name, "link", "set", "lo", "up");
    }
    ip("link", "add", "rally-veth-a", "netns", near, "type", "veth", "peer", "name", "rally-veth-b", "netns", far);
    ip("-n", near, "address", "add", "10.213.7.1/24", "dev", "rally-veth-a");
    ip("-n", far, "address", "add", "10.213.7.2/24", "dev", "rally-veth-b");
    ip("-n", near, "link", "set", "rally-veth-a", "up");
    ip("-n", far, "link", "set", "rally-veth-b", "up");
    const store = path.join(home.base, "store");
    mkdirSync(store);
    const natsServer = home.env["RALLY_NATS_SERVER"] ?? "";
    const [enter, ...rest] = [...ENTER, near, natsServer, "-js", "-sd", store, "-a", "0.0.0.0", "-p", "4222"];
    server = spawn(enter, rest, { stdio: "ignore" });
    await until(() => canRun(...ENTER, near, "bash", "-c", "read -r < /dev/tcp/127.0.0.1/4222"));
  });
  afterEach(async () => {
    server?.kill("SIGKILL");
    await home?.remove();
    for (const name of [near, far]) ip("netns", "delete", name);
  });

  const texts = (where: typeof inNear, url: string) =>
    Promise.all(
      [1, 2, 3, 4].map(async (seed) => {
        const run = home.rally(
          [
            "run",
            PROMPT,
            "--seed",
            String(seed),
            "--max-tokens",
            "60",
            "--json",
            "--nats",
            url,
            "--deployment",
            "default",
          ],
          where,
        );
        expect([await run.status, run.output.stderr]).toEqual([0, expect.anything()]);
        return (JSON.parse(run.output.stdout) as Answer).tokenIds;
      }),
    );

  const actors = async () => {
    const ps = home.rally(["ps", "--nats", nearUrl, "--json"], inNear);
    await ps.status;
    return (JSON.parse(ps.output.stdout) as { actors: FoundRole[] }).actors;
  };

  it("share one deployment; one leaves, the other goes on", { timeout: 300_000 }, async () => {
    const first = home.rally(["up", "--nats", nearUrl, "--json"], inNear);
    await first.event("ready");
    const expected = await texts(inNear, nearUrl);

    const second = home.rally(["join", "--attention", "1", "--replicas", "1", "--nats", farUrl, "--json"], inFar);
    await second.event("ready");
    const both = await actors();
    expect(both).toHaveLength(6);
    expect(new Set(both.map(({ id }) => id)).size).toBe(6);
    expect(new Set(both.flatMap(({ epoch }) => epoch ?? []))).toEqual(new Set([1]));

    expect(await Promise.all([texts(inNear, nearUrl), texts(inFar, farUrl)])).toEqual([expected, expected]);
    const after = await actors();
    for (const { stats } of after) {
      // A large payload that was not read over there would have been asked for again, or not been understood.
      expect(stats).toMatchObject(stats?.role === "attention" ? { badMessages: 0 } : { badMessages: 0, waiting: 0 });
    }
    // Both sides' experts had their part.
    for (const { role, stats } of after) if (role === "expert") expect(stats?.busyMs).toBeGreaterThan(0);

    const running = texts(inFar, farUrl);
    await sleep(1_000);
    first.child.kill("SIGTERM");
    expect(await first.status).toBe(0);
    expect(await running).toEqual(expected);
    expect(await actors()).toHaveLength(3);
    expect(await texts(inFar, farUrl)).toEqual(expected);

    for (const pid of home.pids().filter((each) => commandLine(each).includes("\0join\0")))
      process.kill(pid, "SIGTERM");
    await second.said('"event":"stopped"');
    await second.status;
    expect(await actors()).toHaveLength(0);
  });
});

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(50);
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}
