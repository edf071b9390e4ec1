import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Bus } from "../../../infra/bus.ts";
import { NatsProxy } from "../../../infra/chaos/nats-proxy.ts";
import { SeededRandom } from "../../../infra/chaos/seeded.ts";
import { systemClock } from "../../../infra/clock.ts";
import { connectNats, type NatsConnection } from "../../../infra/nats-connect.ts";
import { startTestServer, type TestServer } from "../../support/nats.ts";

/** Against a real server: what a client behind the proxy and one beside it see of each other. */
describe("NatsProxy", () => {
  let server: TestServer;
  let proxy: NatsProxy;
  let behind: NatsConnection;
  let beside: NatsConnection;

  beforeAll(async () => {
    server = await startTestServer();
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    proxy = await NatsProxy.listen({
      clock: systemClock,
      random: new SeededRandom(1, "proxy"),
      upstream: () => ({ host: "127.0.0.1", port: server.running.port }),
    });
    behind = await connectNats({ url: `nats://127.0.0.1:${proxy.port}` }, { name: "behind" });
    beside = await connectNats({ url: server.url }, { name: "beside" });
  });
  afterEach(async () => {
    await behind.close();
    await beside.close();
    await proxy.close();
  });

  /** Counts what arrives; `next` resolves when so many have. */
  async function listen(bus: Bus, subject: string) {
    const texts: string[] = [];
    let wake = () => undefined as void;
    bus.subscribe(subject, ({ payload }) => {
      texts.push(Buffer.from(payload).toString());
      wake();
    });
    await bus.flush();
    return {
      texts,
      async until(count: number) {
        while (texts.length < count) await new Promise<void>((resolve) => (wake = resolve));
      },
    };
  }

  const send = (bus: Bus, subject: string, count: number) => {
    for (let i = 0; i < count; i++) bus.publish(subject, Buffer.from(`message ${i}`));
  };
  const anything = () => true;

  it("passes everything on, large messages too", async () => {
    const heard = await listen(beside.bus, "a");
    send(behind.bus, "a", 100);
    behind.bus.publish("a", Buffer.alloc(3_000_000, 120));
    await heard.until(101);
    expect(heard.texts.slice(0, 3)).toEqual(["message 0", "message 1", "message 2"]);
    expect(heard.texts[100]).toHaveLength(3_000_000);
  });

  it("loses and doubles messages of one direction only, until it is over", async () => {
    const [there, back] = [await listen(beside.bus, "there"), await listen(behind.bus, "back")];
    const heal = proxy.inject({ kind: "drop", direction: "to-server", probability: 1, concerns: anything });
    send(behind.bus, "there", 5);
    await behind.bus.flush();
    send(beside.bus, "back", 5);
    await back.until(5);
    expect(there.texts).toEqual([]);
    heal();
    const over = proxy.inject({ kind: "duplicate", direction: "to-server", probability: 1, concerns: anything });
    send(behind.bus, "there", 2);
    await there.until(4);
    expect(there.texts).toEqual(["message 0", "message 0", "message 1", "message 1"]);
    over();
    send(behind.bus, "there", 1);
    await there.until(5);
    expect(there.texts).toHaveLength(5);
  });

  it("lets messages be overtaken, and loses none", async () => {
    const heard = await listen(beside.bus, "a");
    proxy.inject({ kind: "reorder", direction: undefined, probability: 0.5, delayMs: 20, concerns: anything });
    send(behind.bus, "a", 40);
    await heard.until(40);
    expect(heard.texts).not.toEqual(heard.texts.toSorted(byNumber));
    expect(new Set(heard.texts).size).toBe(40);
  });

  it("delays without changing the order, and throttles", async () => {
    const heard = await listen(beside.bus, "a");
    const heal = proxy.inject({ kind: "jitter", direction: "to-server", delayMs: 30 });
    send(behind.bus, "a", 30);
    await heard.until(30);
    expect(heard.texts).toEqual(heard.texts.toSorted(byNumber));
    heal();
    proxy.inject({ kind: "throttle", direction: "to-server", bytesPerSecond: 200_000 });
    const startedAt = performance.now();
    behind.bus.publish("a", Buffer.alloc(40_000));
    await heard.until(31);
    expect(performance.now() - startedAt).toBeGreaterThan(190);
  });

  it("holds everything through a partition and delivers it afterwards, new connections too", async () => {
    const heard = await listen(beside.bus, "a");
    const heal = proxy.inject({ kind: "partition", direction: undefined });
    send(behind.bus, "a", 3);
    const late = connectNats({ url: `nats://127.0.0.1:${proxy.port}` }, { name: "late" });
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(heard.texts).toEqual([]);
    heal();
    await heard.until(3);
    expect(heard.texts).toEqual(["message 0", "message 1", "message 2"]);
    await (await late).close();
  });

  it("resets connections; the client comes back by itself", async () => {
    const heard = await listen(behind.bus, "a");
    const statuses: string[] = [];
    const again = new Promise<void>((resolve) => {
      behind.bus.onStatus((status) => {
        statuses.push(status);
        if (status === "connected") resolve();
      });
    });
    proxy.disconnect();
    await again;
    expect(statuses).toEqual(["disconnected", "connected"]);
    send(beside.bus, "a", 1);
    await heard.until(1);
  });

  it("leaves a half-open connection in silence, and resets it at last", async () => {
    const heard = await listen(beside.bus, "a");
    const heal = proxy.inject({ kind: "half-open", direction: undefined });
    const statuses: string[] = [];
    const again = new Promise<void>((resolve) => {
      behind.bus.onStatus((status) => {
        statuses.push(status);
        if (status === "connected") resolve();
      });
    });
    send(behind.bus, "a", 3);
    await new Promise((resolve) => setTimeout(resolve, 150));
    // Nobody told the client, and nobody heard it.
    expect(statuses).toEqual([]);
    expect(heard.texts).toEqual([]);
    heal();
    await again;
    send(behind.bus, "a", 1);
    await heard.until(1);
    expect(heard.texts).toEqual(["message 0"]);
  });
});

function byNumber(a: string, b: string): number {
  return Number(a.split(" ")[1]) - Number(b.split(" ")[1]);
}
