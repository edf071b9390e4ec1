import net from "node:net";
import path from "node:path";
import { connect } from "nats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RallyClient } from "../../actors/client/rally-client.ts";
import type { RoleStats } from "../../actors/protocol/role.ts";
import { type RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import { startDeployment, type TestDeployment } from "../support/deployment.ts";
import { longRequests, sleep, startLoad } from "../support/load.ts";
import { RallyHome } from "../support/rally-home.ts";

const MAX_PAYLOAD = 64 << 10;

/** Clients that go, come back, or do not listen; on a server whose messages are far smaller than a prompt's activations. */
describe("clients", () => {
  let home: RallyHome;
  let server: RunningNatsServer;
  let deployment: TestDeployment;

  beforeAll(async () => {
    home = await RallyHome.make();
    server = await startNatsServer({ storeDir: path.join(home.base, "store"), maxPayload: MAX_PAYLOAD });
    deployment = await startDeployment({}, { nats: { url: server.url } });
  });
  afterAll(async () => {
    await deployment?.stop();
    await server?.stop();
    await home?.remove();
  });

  it("resume from any index, while it is made and after", { timeout: 240_000 }, async () => {
    const [request] = longRequests(1, 60);
    // Its activations are several times as large as a message may be.
    const prompt = "It was a dark night, and the wind went round the house. ".repeat(16);
    const going = await RallyClient.connect(server);
    const generation = going.generate({ ...request, prompt, maxTokens: 80 });
    let seen = 0;
    for await (const { index } of generation) if ((seen = index + 1) === 10) break;
    await going.close();

    const other = await RallyClient.connect(server);
    try {
      const rest = async (from: number) => {
        const ids: number[] = [];
        let next = from;
        const resumed = other.resume(generation.requestId, from);
        for await (const { index, id } of resumed) {
          expect(index).toBe(next++);
          ids.push(id);
        }
        return { ids, all: (await resumed.result).tokenIds };
      };
      const [{ ids, all }, ...others] = await Promise.all([rest(0), rest(seen), rest(40)]);
      expect(ids).toEqual(all);
      expect(ids).toHaveLength(80);
      expect(others.map((each) => each.ids)).toEqual([all.slice(seen), all.slice(40)]);
      for (const from of [0, 1, 79, 80, 1_000]) expect((await rest(from)).ids).toEqual(all.slice(from));
    } finally {
      await other.close();
    }
  });

  it("whose connection breaks again and again see each token once", { timeout: 240_000 }, async () => {
    const requests = longRequests(6, 40);
    const expected = await startLoad(deployment.client, requests).results;
    const sockets = new Set<net.Socket>();
    const proxy = net.createServer((socket) => {
      const upstream = net.connect(server.port, "127.0.0.1");
      for (const [from, to] of [
        [socket, upstream],
        [upstream, socket],
      ] as const) {
        sockets.add(from);
        from.on("error", () => undefined);
        from.on("close", () => {
          sockets.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    });
    const port = await new Promise<number>((resolve) => {
      proxy.listen(0, "127.0.0.1", () => resolve((proxy.address() as net.AddressInfo).port));
    });
    const client = await RallyClient.connect({ url: `nats://127.0.0.1:${port}` });
    try {
      const load = startLoad(client, requests);
      let numCuts = 0;
      const cutting = setInterval(() => {
        numCuts++;
        for (const socket of sockets) socket.destroy();
      }, 700);
      const results = await load.results.finally(() => clearInterval(cutting));
      expect(results).toEqual(expected);
      expect(numCuts).toBeGreaterThan(0);
      for (const { tokens } of load.generations) expect(tokens.map(({ index }) => index)).toEqual([...tokens.keys()]);
    } finally {
      await client.close();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => proxy.close(resolve));
    }
  });

  it("that do not read hold nobody up, and read on later", { timeout: 180_000 }, async () => {
    const prompt = ["run", "The king had three daughters", "--max-tokens", "300", "--seed", "3", "--logprobs", "20"];
    const flags = ["--json", "--nats", server.url, "--deployment", "default"];
    const whole = home.rally([...prompt, ...flags]);
    expect(await whole.status).toBe(0);

    const slow = home.rally([...prompt, ...flags]);
    await expect.poll(() => activeSequences(deployment), { timeout: 30_000, interval: 20 }).toBeGreaterThan(0);
    process.kill(slow.child.pid ?? 0, "SIGSTOP");
    // Others, and the very request that nobody reads, come to their end meanwhile.
    await startLoad(deployment.client, longRequests(4, 10)).results;
    await expect.poll(() => activeSequences(deployment), { timeout: 60_000, interval: 200 }).toBe(0);
    await sleep(500);
    process.kill(slow.child.pid ?? 0, "SIGCONT");
    expect(await slow.status).toBe(0);
    const tokens = ({ output }: typeof slow) => (JSON.parse(output.stdout) as { tokenIds: number[] }).tokenIds;
    expect(tokens(slow)).toEqual(tokens(whole));
  });

  it("of any kind find the actors as NATS micro services", async () => {
    await startLoad(deployment.client, longRequests(1, 0)).results;
    const nats = await connect({ servers: server.url });
    try {
      const services = nats.services.client();
      const names = new Map<string, number>();
      for await (const { name, version, type, metadata } of await services.ping()) {
        names.set(name, (names.get(name) ?? 0) + 1);
        expect(type).toBe("io.nats.micro.v1.ping_response");
        expect(version).toMatch(/^\d+\.\d+\.\d+/u);
        expect(metadata?.["deployment"]).toBe("default");
      }
      expect([...names].toSorted(([a], [b]) => (a < b ? -1 : 1))).toEqual([
        ["rally-attention", 1],
        ["rally-expert", 2],
      ]);
      const subjects: string[] = [];
      for await (const { endpoints } of await services.info("rally-expert")) {
        for (const { subject } of endpoints) subjects.push(subject);
      }
      expect(subjects.toSorted()).toEqual(["rally.default.ffn.1.0", "rally.default.ffn.1.1"]);
      for await (const { endpoints, started } of await services.stats("rally-expert")) {
        const [endpoint] = endpoints ?? [];
        expect(Date.parse(started)).toBeLessThan(Date.now());
        expect(endpoint?.num_requests).toBeGreaterThan(0);
        expect((endpoint?.data as RoleStats | undefined)?.role).toBe("expert");
        // Nanoseconds each: between a microsecond and a second.
        expect(endpoint?.average_processing_time).toBeGreaterThan(1e3);
        expect(endpoint?.average_processing_time).toBeLessThan(1e9);
      }
    } finally {
      await nats.close();
    }
    const doctor = home.rally(["doctor", "--nats", server.url, "--json"]);
    await doctor.status;
    const { checks } = JSON.parse(doctor.output.stdout) as { checks: { name: string; found: string }[] };
    expect(checks.find(({ name }) => name === "actors")).toEqual({
      name: "actors",
      state: "ok",
      found: "default: 1 attention actor, 2 expert actors of 2 shards",
    });
  });
});

async function activeSequences({ supervisor }: TestDeployment): Promise<number> {
  const stats = await supervisor.stats();
  return stats.reduce((sum, each) => sum + (each.role === "attention" ? each.activeSequences : 0), 0);
}
