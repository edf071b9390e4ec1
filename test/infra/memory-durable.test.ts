import { expect, it } from "vitest";
import { SimulatedClock } from "../../infra/clock.ts";
import { MemoryDurable } from "../../infra/memory-durable.ts";
import { durableContract } from "./durable.contract.ts";

const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

durableContract("memory", async () => {
  const clock = new SimulatedClock();
  clock.advance(1000);
  const durable = new MemoryDurable({ clock });
  return {
    connect: async () => durable,
    async wait(ms) {
      await settle();
      clock.advance(ms);
      await settle();
    },
    interrupt: async () => durable.interrupt(),
    restore: async () => durable.restore(),
    close: settle,
  };
});

it("leaves no timer behind once its jobs are done", async () => {
  const clock = new SimulatedClock();
  const durable = new MemoryDurable({ clock });
  const queue = await durable.queue({ name: "q", subject: "q", maxJobs: 10, maxJobBytes: 10, ackWaitMs: 1000 });
  const waiting = queue.pull(1, 5000);
  await queue.put("1", new Uint8Array(1));
  const [job] = await waiting;
  expect(clock.pending).toBe(1);
  await job?.done();
  expect(clock.pending).toBe(0);
});

it("an id counts as new again after the duplicate window", async () => {
  const clock = new SimulatedClock();
  const durable = new MemoryDurable({ clock });
  const log = await durable.log({ name: "l", subjects: "l.*", maxAgeMs: 10_000_000, maxBytes: 1000 });
  const first = await log.append("l.a", new Uint8Array(1), { id: "x", expectedLastSeq: 0 });
  clock.advance(119_000);
  expect(await log.append("l.a", new Uint8Array(1), { id: "x", expectedLastSeq: first.seq })).toMatchObject({
    duplicate: true,
  });
  clock.advance(2000);
  expect(await log.append("l.a", new Uint8Array(1), { id: "x", expectedLastSeq: first.seq })).toMatchObject({
    duplicate: false,
  });
});
