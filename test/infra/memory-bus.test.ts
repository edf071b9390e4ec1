import { expect, it } from "vitest";
import type { BusMessage } from "../../infra/bus.ts";
import { SimulatedClock } from "../../infra/clock.ts";
import { MemoryBus } from "../../infra/memory-bus.ts";
import { busContract } from "./bus.contract.ts";

busContract("memory", async () => {
  const root = new MemoryBus();
  const connections: MemoryBus[] = [];
  return {
    async connect() {
      const connection = root.connect();
      connections.push(connection);
      return connection;
    },
    async interrupt() {
      for (const connection of connections) connection.disconnect();
    },
    async restore() {
      for (const connection of connections) connection.reconnect();
    },
    close: () => root.close(),
  };
});

it("a payload kept beyond its handler is spoilt, as a socket's buffer would be", async () => {
  const bus = new MemoryBus();
  const kept: BusMessage[] = [];
  bus.subscribe("keep", (message) => kept.push(message));
  bus.publish("keep", Buffer.from("abc"));
  await bus.flush();
  expect([...(kept[0]?.payload ?? [])]).not.toEqual([...Buffer.from("abc")]);
  await bus.close();
});

it("time-outs follow the injected clock and leave no timer behind", async () => {
  const clock = new SimulatedClock();
  const bus = new MemoryBus({ clock });
  bus.subscribe("silent", () => {});
  const request = bus.request("silent", new Uint8Array(0), 5000);
  clock.advance(4999);
  expect(clock.pending).toBe(1);
  clock.advance(1);
  await expect(request).rejects.toMatchObject({ code: "timeout" });
  expect(clock.pending).toBe(0);
  await bus.close();
});
