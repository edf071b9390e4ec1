import { mkdirSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { discover, type FoundRole } from "../../actors/protocol/discovery.ts";
import { systemClock } from "../../infra/clock.ts";
import { connectNats, type NatsConnection } from "../../infra/nats-connect.ts";
import { type RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import { longRequests, sleep, startLoad } from "../support/load.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../support/random-checkpoint.ts";
import { RallyHome, roleOf } from "../support/rally-home.ts";
import { tokensOf } from "../support/requests.ts";

/** Actors come and go under load; no request fails, and tokens stay the same. */
describe("membership", () => {
  let home: RallyHome;
  let server: RunningNatsServer;
  let connection: NatsConnection;
  let client: RallyClient;

  beforeEach(async () => {
    home = await RallyHome.make();
    server = await startNatsServer({ storeDir: path.join(home.base, "theirs") });
    connection = await connectNats(server, { name: "test" });
    client = new RallyClient({ ...connection });
  });
  afterEach(async () => {
    await client?.close();
    await connection?.close();
    home.endAll();
    await server?.stop();
    await home.remove();
  });

  const start = async (...args: readonly string[]) => {
    const started = home.rally([...args, "--nats", server.url, "--json"]);
    await started.event("ready");
    return started;
  };
  const found = (role: FoundRole["role"]) => discover({ ...connection, clock: systemClock, role });

  it("actors join and leave, the first ones too", { timeout: 400_000 }, async () => {
    const requests = longRequests(10, 40);
    const first = await start("up");
    const expected = await tokensOf(client, requests, 8);

    const load = startLoad(client, requests);
    await load.underWay(3);
    const joined = await start("join", "--attention", "1", "--replicas", "1");
    const actors = [...(await found("attention")), ...(await found("expert"))];
    expect(actors.map(({ id }) => id.replace(/-[0-9a-f]{8}$/u, ""))).toEqual([
      "attention-0",
      "attention-0",
      "expert-0",
      "expert-0",
      "expert-1",
      "expert-1",
    ]);
    expect(new Set(actors.map(({ id }) => id)).size).toBe(6);
    first.child.kill("SIGTERM");
    expect(await first.status).toBe(0);
    expect(await found("expert")).toHaveLength(2);
    expect(await load.results).toEqual(expected);

    // What has come last goes as well, while another takes over.
    const again = startLoad(client, requests);
    const second = await start("up");
    joined.child.kill("SIGTERM");
    expect(await joined.status).toBe(0);
    expect(await again.results).toEqual(expected);
    for (const { output } of [first, joined, second]) expect(output.stdout).not.toContain('"event":"warning"');
    second.child.kill("SIGTERM");
    expect(await second.status).toBe(0);
  });

  it("a server of our own stays until those who joined have left", { timeout: 240_000 }, async () => {
    const up = home.rally(["up", "--json"]);
    const { topology } = await up.event<{ topology: { nats: { url: string } } }>("ready");
    const other = await RallyClient.connect(topology.nats);
    try {
      // Found by the record that the first has left on this machine.
      const joined = home.rally(["join", "--attention", "1", "--replicas", "1", "--json"]);
      await joined.event("ready");
      const load = startLoad(other, longRequests(4, 30));
      await load.underWay(3);
      up.child.kill("SIGTERM");
      await up.said("3 actors that joined still use this nats-server");
      const results = await load.results;
      expect(await tokensOf(other, longRequests(4, 30), 4)).toEqual(results);
      expect(
        home
          .pids()
          .map((pid) => roleOf(pid)?.id.replace(/-[0-9a-f]{8}$/u, ""))
          .filter(Boolean),
      ).toHaveLength(3);
      joined.child.kill("SIGTERM");
      expect(await joined.status).toBe(0);
      expect(await up.status).toBe(0);
    } finally {
      await other.close();
    }
    await home.expectNothingLeft();
  });

  it("experts move to other shards without a stop", { timeout: 400_000 }, async () => {
    const requests = longRequests(8, 40);
    const up = await start("up", "--attention", "2");
    const expected = await tokensOf(client, requests, 6);
    const moves = [
      ["--experts", "3"],
      ["--split", "0,2-6/1/7"],
      ["--experts", "1"],
    ] as const;
    for (const move of moves) {
      const load = startLoad(client, requests);
      await load.underWay(3);
      const place = home.rally(["place", ...move, "--nats", server.url, "--json"]);
      expect(await place.status).toBe(0);
      const { epoch, shards } = JSON.parse(place.output.stdout) as { epoch: number; shards: number[][] };
      if (move[0] === "--split") expect(shards).toEqual([[0, 2, 3, 4, 5, 6], [1], [7]]);
      else expect(shards).toHaveLength(Number(move[1]));
      expect(await load.results).toEqual(expected);
      expect(await tokensOf(client, requests, 6)).toEqual(expected);
      // The old ones leave by themselves.
      const left = async () => (await found("expert")).map((expert) => `${expert.epoch} ${expert.shard}`);
      await expect
        .poll(left, { timeout: 60_000, interval: 500 })
        .toEqual(shards.map((_, shard) => `${epoch} ${shard}`));
    }
    expect(up.output.stdout).not.toContain('"event":"warning"');

    // Started anew without a word of shards it keeps them; with another word it is refused while others run.
    const other = home.rally(["up", "--experts", "2", "--nats", server.url], { data: "data2" });
    expect(await other.status).toBe(2);
    expect(other.output.stderr).toContain("runs with 1 shards");
    const third = home.rally(["up", "--shared-experts", "experts", "--nats", server.url], { data: "data2" });
    expect(await third.status).toBe(2);
    expect(third.output.stderr).toContain("runs with --shared-experts attention");
    up.child.kill("SIGTERM");
    expect(await up.status).toBe(0);
    const next = await start("up");
    expect(next.output.stdout).toContain('"experts":1');
    expect(await tokensOf(client, requests.slice(0, 2), 2)).toEqual(expected.slice(0, 2));
  });

  it("a placement that nobody gets ready for is taken back", { timeout: 240_000 }, async () => {
    await start("up", "--attention", "1");
    // Stopped, its supervisor starts nothing.
    const supervisors = home.pids().filter((pid) => roleOf(pid) === undefined);
    for (const pid of supervisors) process.kill(pid, "SIGSTOP");
    const place = home.rally(["place", "--experts", "3", "--timeout", "1", "--nats", server.url, "--json"]);
    expect(await place.status).toBe(1);
    expect(JSON.parse(place.output.stdout)).toMatchObject({ error: { code: "timeout" } });
    for (const pid of supervisors) process.kill(pid, "SIGCONT");
    expect((await client.generate({ prompt: "A", maxTokens: 5 }).result).outputTokens).toBe(5);
    await sleep(1_000);
    expect((await found("expert")).map(({ epoch }) => epoch)).toEqual([1, 1]);
  });

  it("what does not fit is kept out", { timeout: 240_000 }, async () => {
    const refusal = async (...args: readonly string[]) => {
      const refused = home.rally([...args, "--json"]);
      const status = await refused.status;
      const { error } = JSON.parse(refused.output.stdout) as { error: { code: string; message: string } };
      return { status, code: error.code, message: error.message };
    };
    const nats = ["--nats", server.url];
    expect(await refusal("join", ...nats)).toMatchObject({ status: 2, code: "bad-settings" });
    expect(await refusal("join", "--attention", "1")).toMatchObject({ status: 1, code: "unknown-deployment" });
    expect(await refusal("join", "--attention", "1", ...nats)).toMatchObject({ code: "unknown-deployment" });
    expect(await refusal("place", "--experts", "2", ...nats)).toMatchObject({ code: "unknown-deployment" });
    await start("up");
    expect(await refusal("place", "--split", "0-6", ...nats)).toMatchObject({
      status: 2,
      message: "expert 7 is in no shard: the model has experts 0 to 7",
    });
    expect(await refusal("place", "--split", "0-3/4-8", ...nats)).toMatchObject({
      status: 2,
      message: "expert 8 does not exist: the model has experts 0 to 7",
    });
    expect(await refusal("join", "--experts", "1,2", ...nats)).toMatchObject({ status: 2, code: "bad-settings" });
    const model = path.join(home.base, "other-model");
    mkdirSync(model);
    writeRandomCheckpoint(model, SMALL_MODEL, { seed: 1 });
    expect(await refusal("join", "--replicas", "1", "--model", model, ...nats)).toMatchObject({
      status: 1,
      code: "bad-model",
    });
    expect((await client.generate({ prompt: "A", maxTokens: 5 }).result).outputTokens).toBe(5);
  });
});
