import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { Placements } from "../../actors/protocol/placement.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";
import type { KeyValue } from "../../infra/durable.ts";
import { connectNats, type NatsConnection } from "../../infra/nats-connect.ts";
import { type RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import { RallyHome, roleOf } from "../support/rally-home.ts";

const subjects = subjectsOf("default");

describe("a current placement that makes no sense", () => {
  let home: RallyHome;
  let server: RunningNatsServer;
  let connection: NatsConnection;
  let client: RallyClient;
  let bucket: KeyValue;
  let placements: Placements;

  beforeEach(async () => {
    home = await RallyHome.make();
    server = await startNatsServer({ storeDir: path.join(home.base, "theirs") });
    connection = await connectNats(server, { name: "test" });
    client = new RallyClient({ ...connection });
    bucket = await connection.durable.keyValue(subjects.placementBucket);
    placements = await Placements.open(connection.durable, subjects);
  });
  afterEach(async () => {
    await client?.close();
    await connection?.close();
    home.endAll();
    await server?.stop();
    await home.remove();
  });

  const start = async () => {
    const started = home.rally(["up", "--nats", server.url, "--json"]);
    await started.event("ready");
    return started;
  };
  const serves = async () => (await client.generate({ prompt: "A", maxTokens: 5 }).result).outputTokens;

  it("is put back while the deployment runs, so that what dies starts again", { timeout: 120_000 }, async () => {
    const up = await start();
    const good = await placements.read("current");
    await bucket.put("current", Buffer.from("forged"));
    await up.said("placement 1 is put back");
    await expect.poll(async () => await placements.read("current")).toEqual(good);
    for (const pid of home.pids()) if (roleOf(pid) !== undefined) process.kill(pid, "SIGKILL");
    expect(await serves()).toBe(5);
  });

  it("is made anew at the next start, with a warning", { timeout: 120_000 }, async () => {
    const first = await start();
    first.child.kill("SIGTERM");
    expect(await first.status).toBe(0);
    await bucket.put("current", Buffer.from("forged"));
    const second = await start();
    expect(second.output.stdout).toMatch(
      /"event":"warning","source":"supervisor","text":"the placement cannot be read/u,
    );
    expect(await serves()).toBe(5);
    expect((await placements.read("current"))?.epoch).toBeGreaterThan(1);
  });
});
