import { mkdirSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it, test } from "vitest";
import type { Durable } from "../../infra/durable.ts";
import type { RallyError } from "../../infra/errors.ts";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { numberIn } from "../../infra/nats-answer.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import { JetStream } from "../../infra/nats-jetstream.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { startTestServer, type TestServer } from "../support/nats.ts";
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
      async restore() {
        await server.restart();
        // Each of them tries again in its own time.
        await expect.poll(() => links.every(({ connected }) => connected), { timeout: 10_000 }).toBe(true);
      },
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

test("an append to a log whose stream is not there is given up before long, though its own echo comes back", async () => {
  const server = await startTestServer();
  try {
    const link = await openWireLink({ url: server.url }, "test");
    const durable = new NatsDurable(link);
    const log = await durable.log({ name: "l", subjects: "l.*", maxAgeMs: 60_000, maxBytes: 1 << 20 });
    await durable.remove("log", "l");
    const appended = log.append("l.one", Buffer.from("1"), { id: "1", expectedLastSeq: 0 }).then(
      () => "appended",
      (error: unknown) => (error as RallyError).code,
    );
    expect(await Promise.race([appended, sleep(3000, "still waiting")])).toBe("timeout");
    await link.close();
  } finally {
    await server.stop();
  }
});

describe("a store that has lost its end with the power", () => {
  let server: TestServer;
  let link: NatsLink;
  let durable: Durable;

  beforeEach(async () => {
    server = await startTestServer();
    link = await openWireLink({ url: server.url }, "test");
    durable = new NatsDurable(link);
  });
  afterEach(async () => {
    await link.close();
    await server.stop();
  });

  async function cutPower(stream: string): Promise<void> {
    // Long enough for the server to have noted where the stream's consumer is.
    await sleep(1000);
    await server.kill();
    const messages = path.join(server.running.storeDir, `jetstream/$G/streams/${stream}/msgs`);
    expect(readdirSync(messages)).not.toEqual([]);
    rmSync(messages, { recursive: true });
    mkdirSync(messages);
    await server.restart();
    await expect.poll(() => link.connected).toBe(true);
  }

  it("delivers the jobs that come after", async () => {
    const limits = { maxJobs: 4, maxJobBytes: 100, ackWaitMs: 1000 };
    const queue = await durable.queue({ name: "q", subject: "test.q", ...limits });
    for (const id of ["1", "2", "3"]) await queue.put(id, Buffer.from(id));
    for (const job of await queue.pull(3, 1000)) await job.done();
    await cutPower("q");
    await queue.put("4", Buffer.from("4"));
    const jobs = await queue.pull(1, 5000);
    expect(jobs.map(({ payload }) => text(payload))).toEqual(["4"]);
    await jobs[0]?.done();
    expect(await queue.depth()).toBe(0);
  });

  it("shows followers what is appended after", async () => {
    const log = await durable.log({ name: "l", subjects: "test.l.*", maxAgeMs: 60_000, maxBytes: 10_000 });
    const seen: string[] = [];
    await log.follow("test.l.a", ({ payload }) => seen.push(text(payload)));
    let lastSeq = 0;
    const append = async (entry: string, id = entry) => {
      lastSeq = (await log.append("test.l.a", Buffer.from(entry), { id, expectedLastSeq: lastSeq })).seq;
    };
    for (const entry of ["1", "2", "3"]) await append(entry);
    await expect.poll(() => seen).toEqual(["1", "2", "3"]);
    await cutPower("l");
    lastSeq = 0;
    await append("1", "1 again");
    await expect.poll(() => seen, { timeout: 10_000 }).toEqual(["1", "2", "3", "1"]);
    await append("2", "2 again");
    await expect.poll(() => seen).toEqual(["1", "2", "3", "1", "2"]);
  });
});

function text(payload: Uint8Array): string {
  return Buffer.from(payload).toString();
}
