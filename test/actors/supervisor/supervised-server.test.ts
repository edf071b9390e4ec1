import { beforeEach, describe, expect, test } from "vitest";
import { ENOUGH_BYTES, LOW_BYTES } from "../../../actors/supervisor/store-folder.ts";
import { SupervisedServer } from "../../../actors/supervisor/supervised-server.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import type { StartOptions } from "../../../infra/nats-server.ts";
import { FakeFolder } from "../../support/fake-store-folder.ts";
import { fakeServer } from "../../support/fake-nats-server.ts";

let clock: SimulatedClock;
let started: StartOptions[];
let running: ReturnType<typeof fakeServer>[];
let numStopped: number;
let warnings: string[];
let broken: boolean;
let signals: string[];
/** The server ignores SIGTERM. */
let isWedged: boolean;
let folder: FakeFolder;

beforeEach(() => {
  clock = new SimulatedClock();
  started = [];
  running = [];
  numStopped = 0;
  warnings = [];
  broken = false;
  signals = [];
  isWedged = false;
  folder = new FakeFolder();
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
    folder,
    kill: (pid, signal) => {
      signals.push(signal);
      if (signal === "SIGTERM" && isWedged) return;
      running.findLast((server) => server.pid === pid)?.crash();
    },
    storeDir,
    progress: () => undefined,
    warning: (text) => warnings.push(text),
  });
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

test("a server that dies comes back on the same port with the same store", async () => {
  const server = supervised();
  await server.start();
  running[0]?.crash();
  await settled();
  expect(started).toHaveLength(1);
  clock.advance(100);
  await settled();
  expect(started[1]).toEqual({ storeDir: "/tmp/rally-nats-fake", port: 4444, maxStoreBytes: 2 ** 40 });
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

test("a temporary folder is claimed, once those left behind are gone", async () => {
  const server = supervised();
  await server.start();
  expect(folder.kept).toEqual(["swept", "/tmp/rally-nats-fake claimed"]);
  await server.stop();
});

test("the port of the last time is taken again", async () => {
  folder.port = 5555;
  const server = supervised("/store");
  await server.start();
  expect(started[0]).toMatchObject({ storeDir: "/store", port: 5555 });
  expect(folder.kept).toEqual(["/store 4444"]);
  await server.stop();
});

test("a store that cannot be used is refused before anything is started", async () => {
  folder.broken = new RallyError("store-unavailable", "read-only");
  await expect(supervised("/store").start()).rejects.toMatchObject({ code: "store-unavailable" });
  expect(started).toEqual([]);
});

describe("a full disk", () => {
  test("is met with a server that refuses, on the same port, until there is room again", async () => {
    const server = supervised("/store");
    await server.start();
    folder.free = LOW_BYTES - 1;
    await afterMs(1000);
    expect(signals).toEqual(["SIGTERM"]);
    await afterMs(0);
    expect(started[1]).toEqual({ port: 4444, jetStream: false });
    expect(warnings).toEqual([expect.stringContaining("is full: requests are refused")]);

    // A little room is not enough: it would be full again at once.
    folder.free = ENOUGH_BYTES - 1;
    await afterMs(5000);
    expect(started).toHaveLength(2);
    folder.free = ENOUGH_BYTES;
    await afterMs(1000);
    await afterMs(0);
    expect(started[2]).toMatchObject({ storeDir: "/tmp/rally-nats-fake", port: 4444 });
    // The temporary files of the one that refused are gone.
    expect(numStopped).toBe(1);
    await server.stop();
    expect(clock.pending).toBe(0);
  });

  test("ends a server that the full disk has wedged", async () => {
    isWedged = true;
    const server = supervised("/store");
    await server.start();
    folder.free = 0;
    await afterMs(1000);
    expect(signals).toEqual(["SIGTERM"]);
    await afterMs(3000);
    expect(signals).toEqual(["SIGTERM", "SIGKILL"]);
    await afterMs(0);
    expect(started[1]).toEqual({ port: 4444, jetStream: false });
    await server.stop();
    expect(clock.pending).toBe(0);
  });

  test("that a crash leads to", async () => {
    const server = supervised("/store");
    await server.start();
    folder.free = 0;
    running[0]?.crash();
    await afterMs(0);
    await afterMs(100);
    expect(started[1]).toEqual({ port: 4444, jetStream: false });
    await server.stop();
    expect(clock.pending).toBe(0);
  });
});

test("one that is silent is killed, and the next started at once", async () => {
  const server = supervised("/store");
  await server.start();
  server.replace("it has not answered");
  expect(signals).toEqual(["SIGKILL"]);
  await afterMs(0);
  expect(started).toHaveLength(2);
  expect(server.numStarts).toBe(2);
  expect(warnings).toEqual(["it has not answered; starting it anew"]);
  await server.stop();
  server.replace("again");
  expect(signals).toHaveLength(1);
  expect(clock.pending).toBe(0);
});

async function afterMs(ms: number): Promise<void> {
  await settled();
  for (let passed = 0; passed < ms; passed += 500) {
    clock.advance(Math.min(500, ms - passed));
    await settled();
  }
  clock.advance(0);
  await settled();
}
