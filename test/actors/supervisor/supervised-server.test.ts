import { beforeEach, expect, test } from "vitest";
import { SupervisedServer } from "../../../actors/supervisor/supervised-server.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import type { StartOptions } from "../../../infra/nats-server.ts";
import { fakeServer } from "../../support/fake-nats-server.ts";

let clock: SimulatedClock;
let started: StartOptions[];
let running: ReturnType<typeof fakeServer>[];
let numStopped: number;
let warnings: string[];
let broken: boolean;

beforeEach(() => {
  clock = new SimulatedClock();
  started = [];
  running = [];
  numStopped = 0;
  warnings = [];
  broken = false;
});

function supervised(storeDir?: string): SupervisedServer {
  return new SupervisedServer({
    async startServer(options = {}) {
      started.push(options);
      if (broken) throw new RallyError("server-unavailable", "the disk is full");
      const server = fakeServer(() => numStopped++);
      running.push(server);
      return server;
    },
    clock,
    storeDir,
    progress: () => undefined,
    warning: (text) => warnings.push(text),
  });
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

test("a server that dies comes back on the same port with the same store", async () => {
  const server = supervised();
  await server.start();
  running[0]?.crash();
  await settled();
  expect(started).toHaveLength(1);
  clock.advance(100);
  await settled();
  expect(started[1]).toEqual({ storeDir: "/tmp/rally-nats-fake", port: 4444 });
  expect(warnings).toEqual(["it has ended; starting it again in 100 ms"]);
  await server.stop();
  // The first too: the temporary folder is its.
  expect(numStopped).toBe(2);
  expect(clock.pending).toBe(0);
});

test("a restart that fails is tried again, later and later", async () => {
  const server = supervised("/store");
  await server.start();
  broken = true;
  running[0]?.crash();
  for (let tries = 0; tries < 3; tries++) {
    await settled();
    clock.advance(100 * 2 ** tries);
  }
  await settled();
  expect(started).toHaveLength(4);
  expect(warnings.filter((text) => text === "the disk is full")).toHaveLength(3);
  broken = false;
  clock.advance(800);
  await settled();
  expect(running).toHaveLength(2);
  await server.stop();
  expect(clock.pending).toBe(0);
});

test("a stopped server stays away", async () => {
  const server = supervised();
  await server.start();
  await server.stop();
  await settled();
  clock.advance(60_000);
  expect(started).toHaveLength(1);
  expect(numStopped).toBe(1);
});

test("stopping while it waits for its next start", async () => {
  const server = supervised();
  await server.start();
  running[0]?.crash();
  await settled();
  await server.stop();
  clock.advance(60_000);
  expect(started).toHaveLength(1);
  expect(clock.pending).toBe(0);
});
