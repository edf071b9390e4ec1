import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Job, WorkQueue } from "../../infra/durable.ts";
import { numberIn, numbersIn } from "../../infra/nats-answer.ts";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { JetStream } from "../../infra/nats-jetstream.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import { type ConsumerState, encodeConsumerState } from "../support/consumer-state.ts";
import { startTestServer, type TestServer } from "../support/nats.ts";

const text = ({ payload }: Job): string => Buffer.from(payload).toString();
const ids = (from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, i) => `${from + i}`);

describe("a queue whose server knows of other jobs than its consumer", { timeout: 30_000 }, () => {
  const options = { name: "q", subject: "test.q", maxJobs: 8, maxJobBytes: 100, ackWaitMs: 1000 };
  let server: TestServer;
  let links: NatsLink[];
  let queue: WorkQueue;
  let jetStream: JetStream;

  beforeEach(async () => {
    server = await startTestServer();
    links = [];
    ({ queue, jetStream } = await open());
  });
  afterEach(async () => {
    for (const link of links) await link.close();
    await server.stop();
  });

  async function open() {
    const link = await openWireLink({ url: server.url }, "test");
    links.push(link);
    return { queue: await new NatsDurable(link).queue(options), jetStream: new JetStream(link) };
  }

  /** A stream that holds the jobs `held` of 1, 2, …, `last`; in hand is what the consumer takes to be so. */
  async function leave({ held, last }: { held: readonly number[]; last: number }, consumer: ConsumerState) {
    for (const id of ids(1, last)) await queue.put(id, Buffer.from(id));
    for (let seq = 1; seq <= last; seq++) if (!held.includes(seq)) await queue.discard(seq);
    await server.running.stop();
    writeFileSync(path.join(consumerDir(), "o.dat"), encodeConsumerState(consumer));
    await server.restart();
    await expect.poll(() => links.every(({ connected }) => connected)).toBe(true);
  }

  const consumerDir = () => path.join(server.running.storeDir, "jetstream/$G/streams/q/obs/workers");

  async function jobsThere(): Promise<number[]> {
    const info = await jetStream.call("STREAM.INFO.q", { deleted_details: true });
    const gone = numbersIn(info, "state", "deleted");
    const [first, last] = [numberIn(info, "state", "first_seq"), numberIn(info, "state", "last_seq")];
    return ids(first, last)
      .map(Number)
      .filter((seq) => !gone.includes(seq));
  }

  it("has all its room back though an acknowledgement of a job that has gone is waited for", async () => {
    const [ackFloor, delivered] = [
      { consumer: 0, stream: 0 },
      { consumer: 4, stream: 4 },
    ];
    const pending = [{ consumer: 3, stream: 3 }];
    await leave({ held: [1, 2, 4], last: 4 }, { ackFloor, delivered, pending });
    expect(await queue.progress()).toEqual({ lastDelivered: 4, numInHand: 1 });
    expect(await queue.pull(1, 0)).toEqual([]);
    await expect.poll(jobsThere, { timeout: 15_000, interval: 200 }).toEqual([]);
    expect(await queue.depth()).toBe(0);
    for (const id of ids(5, 12)) await queue.put(id, Buffer.from(id));
    expect((await queue.pull(8, 1000)).map(text)).toEqual(ids(5, 12));
  });

  it("has it back when the server has dropped by itself all that was waited for", async () => {
    const [ackFloor, delivered] = [
      { consumer: 0, stream: 0 },
      { consumer: 4, stream: 4 },
    ];
    const pending = [{ consumer: 1, stream: 1 }];
    await leave({ held: [3, 4], last: 4 }, { ackFloor, delivered, pending });
    expect(await queue.pull(1, 0)).toEqual([]);
    await expect.poll(jobsThere, { timeout: 15_000, interval: 200 }).toEqual([]);
    expect(await queue.depth()).toBe(0);
  });

  it("takes nothing from those who have jobs in hand, and has the rest of its room back while they do", async () => {
    // 2 and 4 were done, 3 and 7 have gone; 5 had been delivered twice before the crash, 8 not yet.
    const [ackFloor, delivered] = [
      { consumer: 1, stream: 1 },
      { consumer: 8, stream: 7 },
    ];
    const pending = [
      { consumer: 3, stream: 3 },
      { consumer: 8, stream: 5 },
      { consumer: 6, stream: 6 },
      { consumer: 7, stream: 7 },
    ];
    const others = [await open(), await open()].map((opened) => opened.queue);
    await leave({ held: [2, 4, 5, 6, 8], last: 8 }, { ackFloor, delivered, pending });
    const inHand: Job[] = [];
    const pulls = Promise.all(
      [queue, ...others].map(async (worker) => {
        const until = performance.now() + 3000;
        while (performance.now() < until) inHand.push(...(await worker.pull(1, 500)));
      }),
    );
    const working = setInterval(() => inHand.forEach((job) => job.working()), 300);
    try {
      await pulls;
      await expect.poll(jobsThere, { timeout: 15_000, interval: 200 }).toEqual([5, 6, 8]);
      expect(inHand.map(text).toSorted()).toEqual(["5", "6", "8"]);
      expect(await queue.progress()).toEqual({ lastDelivered: 8, numInHand: 3 });
    } finally {
      clearInterval(working);
    }
    // Their workers are lost.
    await sleep(1500);
    const again = [...(await queue.pull(3, 2000)), ...(await queue.pull(3, 0))];
    expect(again.map(text).toSorted()).toEqual(["5", "6", "8"]);
    for (const job of again) await job.done();
    await expect.poll(jobsThere, { timeout: 15_000, interval: 200 }).toEqual([]);
    expect(await queue.depth()).toBe(0);
  });

  it("delivers all there is when the consumer is lost altogether", async () => {
    for (const id of ids(1, 3)) await queue.put(id, Buffer.from(id));
    expect((await queue.pull(3, 1000)).length).toBe(3);
    await server.kill();
    rmSync(consumerDir(), { recursive: true });
    await server.restart();
    await expect.poll(() => links.every(({ connected }) => connected)).toBe(true);
    await expect
      .poll(() => queue.progress().catch(() => undefined), { timeout: 5000 })
      .toEqual({ lastDelivered: 0, numInHand: 0 });
    expect((await queue.pull(3, 1000)).map(text)).toEqual(ids(1, 3));
  });
});
