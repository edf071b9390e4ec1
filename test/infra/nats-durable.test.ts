import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
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
