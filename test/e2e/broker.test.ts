import { closeSync, mkdirSync, openSync, readdirSync, rmSync, writeSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { ENOUGH_BYTES } from "../../actors/supervisor/store-folder.ts";
import { startNatsServer } from "../../infra/nats-server.ts";
import { canRun, tool } from "../support/host-tools.ts";
import { longRequests, sleep, startLoad } from "../support/load.ts";
import { RallyHome } from "../support/rally-home.ts";

interface Ready {
  readonly topology: { readonly nats: { readonly url: string } };
}

const canMount =
  process.getuid?.() === 0 && canRun("unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt");

/** What happens to clients and actors when the server or its disk fails. */
describe("the nats-server", () => {
  let home: RallyHome;
  let opened: RallyClient | undefined;
  let mounted: string | undefined;

  beforeEach(async () => {
    home = await RallyHome.make();
  });
  afterEach(async () => {
    await opened?.close();
    opened = undefined;
    home.endAll();
    if (mounted !== undefined) tool("umount", "-l", mounted);
    mounted = undefined;
    await home.remove();
  });

  function mountStore(bytes: number): string {
    const folder = path.join(home.base, "disk");
    mkdirSync(folder);
    tool("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder);
    mounted = folder;
    return folder;
  }

  async function up(...args: readonly string[]) {
    const rally = home.rally(["up", "--json", ...args]);
    const { topology } = await rally.event<Ready>("ready");
    const client = await RallyClient.connect(topology.nats);
    opened = client;
    return { rally, client };
  }

  it("killed in mid-stream comes back at once, and tokens go on where they were", { timeout: 300_000 }, async () => {
    const requests = longRequests(8, 60);
    const { rally: running, client } = await up();
    const expected = await startLoad(client, requests).results;
    const load = startLoad(client, requests);
    await load.underWay(5);
    for (const tokens of [15, 30]) {
      const [pid = 0] = home.natsServerPids();
      const count = () => load.generations.reduce((sum, { tokens: got }) => sum + got.length, 0);
      process.kill(pid, "SIGKILL");
      const before = count();
      const killedAt = performance.now();
      while (count() === before) await sleep(10);
      expect(performance.now() - killedAt).toBeLessThan(5_000);
      await load.underWay(tokens);
    }
    // A request that comes just while it is away waits for it.
    process.kill(home.natsServerPids()[0] ?? 0, "SIGKILL");
    const late = client.generate({ ...requests[0], prompt: "A", maxTokens: 5 });
    expect(await load.results).toEqual(expected);
    expect((await late.result).outputTokens).toBe(5);
    expect(running.output.stdout).toContain("nats-server");
    running.child.kill("SIGTERM");
    expect(await running.status).toBe(0);
    await home.expectNothingLeft();
  });

  it("that is stopped and says nothing is replaced", { timeout: 300_000 }, async () => {
    const requests = longRequests(4, 40);
    const { rally: running, client } = await up();
    const expected = await startLoad(client, requests).results;
    const load = startLoad(client, requests);
    await load.underWay(5);
    const [stopped = 0] = home.natsServerPids();
    process.kill(stopped, "SIGSTOP");
    expect(await load.results).toEqual(expected);
    expect(home.natsServerPids()).not.toContain(stopped);
    expect(running.output.stdout).toContain("it has not answered");
  });

  it.skipIf(!canMount)(
    "on a full disk refuses with store-unavailable, and loses nothing",
    { timeout: 300_000 },
    async () => {
      const disk = mountStore(2 * ENOUGH_BYTES);
      const requests = longRequests(4, 300);
      const { rally: running, client } = await up("--store", path.join(disk, "store"));
      const expected = await startLoad(client, requests).results;
      const load = startLoad(client, requests);
      await load.underWay(10);
      fill(path.join(disk, "ballast"));
      await running.said("is full: requests are refused");
      await expect.poll(() => refusal(client), { timeout: 120_000, interval: 500 }).toBe("store-unavailable");
      const counts = load.generations.map(({ tokens }) => tokens.length);
      rmSync(path.join(disk, "ballast"));
      await running.said("there is room in");
      expect(await load.results).toEqual(expected);
      expect(counts.some((count, i) => count < (expected[i]?.length ?? 0))).toBe(true);
      running.child.kill("SIGTERM");
      expect(await running.status).toBe(0);
    },
  );

  it.skipIf(!canMount)("is not started on a full or read-only disk", async () => {
    const disk = mountStore(ENOUGH_BYTES);
    const store = path.join(disk, "store");
    const full = home.rally(["up", "--store", store]);
    expect(await full.status).toBe(1);
    expect(full.output.stderr).toMatch(/rally: the store .*store has \d+ MiB free, needed are 64 MiB: make room/);

    tool("mount", "-o", "remount,ro", disk);
    const readOnly = home.rally(["up", "--store", path.join(disk, "other"), "--json"]);
    expect(await readOnly.status).toBe(1);
    expect(readOnly.output.stderr).toMatch(/rally: the store .* cannot be written to: .*--store/);
    expect(JSON.parse(readOnly.output.stdout)).toMatchObject({ error: { code: "store-unavailable" } });
    await home.expectNothingLeft();
  });

  it("of somebody else that has no room for the streams is a clear refusal", async () => {
    const server = await startNatsServer({ storeDir: path.join(home.base, "theirs"), maxStoreBytes: 1 << 20 });
    try {
      const refused = home.rally(["up", "--nats", server.url, "--json"]);
      expect(await refused.status).toBe(1);
      expect(JSON.parse(refused.output.stdout)).toMatchObject({ error: { code: "store-unavailable" } });
      expect(refused.output.stderr).toContain("too little storage");
      await expect(
        RallyClient.connect(server).then(async (client) => {
          opened = client;
          return await client.generate({ prompt: "A", maxTokens: 5 }).result;
        }),
      ).rejects.toMatchObject({ code: "store-unavailable" });
    } finally {
      await server.stop();
    }
    expect(readdirSync(path.join(home.base, "tmp"))).toEqual([]);
  });
});

async function refusal(client: RallyClient): Promise<string> {
  try {
    await client.generate({ prompt: "A", maxTokens: 1, deadlineMs: 2_000 }).result;
    return "none";
  } catch (thrown) {
    return (thrown as { readonly code: string }).code;
  }
}

function fill(file: string): void {
  const descriptor = openSync(file, "w");
  try {
    for (;;) writeSync(descriptor, new Uint8Array(1 << 20));
  } catch {
    // No room is left.
  } finally {
    closeSync(descriptor);
  }
}
