import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { numberIn } from "../../infra/nats-answer.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import { JetStream } from "../../infra/nats-jetstream.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { startTestServer } from "../support/nats.ts";
import { durableContract, type DurableHarness } from "./durable.contract.ts";

const harness =
  (open: (settings: NatsSettings, name: string) => Promise<NatsLink>) => async (): Promise<DurableHarness> => {
    const server = await startTestServer();
    const links: NatsLink[] = [];
    return {
      async connect() {
        const link = await open({ url: server.url }, "test");
        links.push(link);
        return new NatsDurable(link);
      },
      wait: (ms) => sleep(ms),
      interrupt: () => server.kill(),
      restore: () => server.restart(),
      async close() {
        for (const link of links) await link.close();
        await server.stop();
      },
    };
  };

durableContract("nats client", harness(openClientLink));
durableContract("nats wire", harness(openWireLink));

test("a key that others have removed is told as empty, and is new again", async () => {
  const server = await startTestServer();
  try {
    const link = await openWireLink({ url: server.url }, "test");
    const bucket = await new NatsDurable(link).keyValue("b");
    const seen: string[] = [];
    await bucket.watch("key", ({ value }) => void seen.push(Buffer.from(value).toString()));
    await bucket.put("key", Buffer.from("one"), 0);
    // As `nats kv del` does.
    link.publish("$KV.b.key", new Uint8Array(), undefined, [["KV-Operation", "DEL"]]);
    await link.flush();
    expect(await bucket.get("key")).toBeUndefined();
    const revision = await bucket.put("key", Buffer.from("two"), 0);
    expect(await bucket.get("key")).toMatchObject({ revision });
    await expect(bucket.put("key", Buffer.from("three"), 0)).rejects.toMatchObject({ code: "stale-owner" });
    await expect.poll(() => seen).toEqual(["one", "", "two"]);
    await link.close();
  } finally {
    await server.stop();
  }
});

test("a follower leaves no consumer behind, not even for a while", async () => {
  const server = await startTestServer();
  try {
    const link = await openWireLink({ url: server.url }, "test");
    const jetStream = new JetStream(link);
    const log = await new NatsDurable(link).log({ name: "l", subjects: "l.*", maxAgeMs: 60_000, maxBytes: 1 << 20 });
    const numConsumers = async () => numberIn(await jetStream.call("STREAM.INFO.l"), "state", "consumer_count");
    const followers = await Promise.all([1, 2, 3].map(() => log.follow("l.one", () => undefined)));
    expect(await numConsumers()).toBe(3);
    for (const follower of followers) follower.unsubscribe();
    await expect.poll(numConsumers, { timeout: 1000 }).toBe(0);
    await link.close();
  } finally {
    await server.stop();
  }
});
