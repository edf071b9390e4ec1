import { beforeEach, describe, expect, test } from "vitest";
import { readPlacement } from "../../../actors/protocol/placement.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { Supervisor, type SupervisorEvent, type SupervisorOptions } from "../../../actors/supervisor/supervisor.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { fakeServer } from "../../support/fake-nats-server.ts";
import { FakeLaunch } from "../../support/fake-role-launch.ts";
import { topologyOf } from "../../support/topology.ts";

let clock: SimulatedClock;
let fake: FakeLaunch;
let durable: MemoryDurable;
let events: SupervisorEvent[];
/** What happens to the outside world, in order. */
let log: string[];
let serverOptions: unknown[];

beforeEach(() => {
  clock = new SimulatedClock();
  fake = new FakeLaunch();
  durable = new MemoryDurable({ clock });
  events = [];
  log = [];
  serverOptions = [];
});

type Ports = NonNullable<SupervisorOptions["ports"]>;

function supervisorWith(options: Partial<SupervisorOptions> = {}, ports: Ports = {}): Supervisor {
  return new Supervisor({
    topology: topologyOf(),
    onEvent: (event) => events.push(event),
    ...options,
    ports: {
      clock,
      launch: fake.launch,
      async startServer(given) {
        serverOptions.push(given);
        log.push("server started");
        return fakeServer(() => log.push("server stopped"));
      },
      async connect() {
        log.push("connected");
        const bus = new MemoryBus();
        return { bus, durable, serverVersion: "2.9.10", close: async () => void log.push("disconnected") };
      },
      describeModel: async () => ({ modelHash: "abc", shards: [[0], [1]] }),
      ...ports,
    },
  });
}

function makeReady(): void {
  fake.onLaunch = (role) => setImmediate(() => role.report({ kind: "ready" }));
}

test("starts the server, places the shards, starts every role, and takes all of it down again", async () => {
  makeReady();
  const supervisor = supervisorWith();
  await supervisor.start();
  expect(fake.roles.map(({ settings }) => settings.id.replace(/-[0-9a-f]+$/, ""))).toEqual([
    "attention-0",
    "expert-0",
    "expert-1",
  ]);
  expect(new Set(fake.roles.map(({ settings }) => settings.nats.url))).toEqual(new Set(["nats://127.0.0.1:4444"]));
  expect(await readPlacement(durable, subjectsOf("test"))).toMatchObject({ epoch: 1, shards: [[0], [1]] });
  expect(supervisor.nats.description).toEqual({ url: "nats://127.0.0.1:4444", version: "2.9.10", source: "PATH" });
  expect(supervisor.pids).toHaveLength(3);
  expect(await supervisor.stats()).toHaveLength(3);

  await Promise.all([supervisor.stop({ drain: true }), supervisor.stop({ drain: true })]);
  expect(fake.alive).toEqual([]);
  expect(log).toEqual(["server started", "connected", "disconnected", "server stopped"]);
  expect(serverOptions).toEqual([{ progress: expect.any(Function) }]);
  expect(clock.pending).toBe(0);
});

test("attention actors are drained before the experts they need", async () => {
  makeReady();
  const supervisor = supervisorWith();
  await supervisor.start();
  const [attention] = fake.roles;
  if (attention === undefined) throw new Error("no attention actor");
  attention.answers = false;
  const stopped = supervisor.stop({ drain: true });
  await new Promise<void>((resolve) => void setImmediate(resolve));
  expect(fake.roles.map(({ commands }) => commands)).toEqual([["drain"], [], []]);
  attention.exit("ended with status 0");
  await stopped;
  expect(fake.roles.map(({ commands }) => commands)).toEqual([["drain"], ["drain"], ["drain"]]);
});

test("an existing server is left alone, and its password never shown", async () => {
  makeReady();
  const supervisor = supervisorWith({ nats: { url: "nats://me:secret@host:4222" } });
  await supervisor.start();
  expect(supervisor.nats.description).toEqual({ url: "nats://host:4222", version: "2.9.10", source: "existing" });
  await supervisor.stop({ drain: true });
  expect(log).toEqual(["connected", "disconnected"]);
});

test("what an existing server keeps for it stays, unless told otherwise", async () => {
  makeReady();
  const nats = { url: "nats://host:4222" };
  const kept = supervisorWith({ nats });
  await kept.start();
  await kept.stop({ drain: true });
  expect(await readPlacement(durable, subjectsOf("test"))).toMatchObject({ epoch: 1 });
  const removed = supervisorWith({ nats, removeAtStop: true });
  await removed.start();
  await removed.stop({ drain: true });
  expect(await readPlacement(durable, subjectsOf("test"))).toBeUndefined();
});

test("a named store is the server's", async () => {
  makeReady();
  const supervisor = supervisorWith({ storeDir: "/some/store" });
  await supervisor.start();
  await supervisor.stop({ drain: true });
  expect(serverOptions).toMatchObject([{ storeDir: "/some/store" }]);
});

test("a role that dies is started again", async () => {
  makeReady();
  const supervisor = supervisorWith();
  await supervisor.start();
  fake.roles[1]?.exit("ended by SIGKILL");
  clock.advance(100);
  await new Promise<void>((resolve) => void setImmediate(resolve));
  expect(fake.alive).toHaveLength(3);
  expect(events.filter(({ kind, source }) => kind === "ready" && source === "expert-0")).toHaveLength(2);
  await supervisor.stop({ drain: false });
});

describe("a failed start leaves nothing behind", () => {
  test("no server", async () => {
    const supervisor = supervisorWith(
      {},
      { startServer: () => Promise.reject(new RallyError("server-unavailable", "none found")) },
    );
    await expect(supervisor.start()).rejects.toMatchObject({ code: "server-unavailable" });
    expect(log).toEqual([]);
    expect(events).toEqual([]);
  });

  test("no connection", async () => {
    const supervisor = supervisorWith(
      {},
      { connect: () => Promise.reject(new RallyError("store-unavailable", "no JetStream")) },
    );
    await expect(supervisor.start()).rejects.toMatchObject({ code: "store-unavailable" });
    expect(log).toEqual(["server started", "server stopped"]);
  });

  test("a model that cannot be read", async () => {
    const supervisor = supervisorWith(
      {},
      { describeModel: () => Promise.reject(new RallyError("bad-model", "config.json is missing")) },
    );
    await expect(supervisor.start()).rejects.toMatchObject({ code: "bad-model" });
    expect(fake.roles).toEqual([]);
    expect(log.at(-1)).toBe("server stopped");
  });

  test("a role that cannot serve it", async () => {
    fake.onLaunch = (role) =>
      setImmediate(() => {
        if (role.settings.role === "attention") return role.report({ kind: "ready" });
        role.report({ kind: "failed", error: new RallyError("bad-model", "a tensor is missing").toWire() });
        role.exit();
      });
    const supervisor = supervisorWith();
    await expect(supervisor.start()).rejects.toThrow("a tensor is missing");
    expect(fake.alive).toEqual([]);
    expect(log.at(-1)).toBe("server stopped");
    expect(clock.pending).toBe(0);
  });

  test("stopped while the roles start", async () => {
    const supervisor = supervisorWith();
    const started = supervisor.start();
    started.catch(() => undefined);
    while (fake.roles.length < 3) await new Promise<void>((resolve) => void setImmediate(resolve));
    await supervisor.stop({ drain: true });
    await expect(started).rejects.toMatchObject({ code: "cancelled" });
    expect(fake.alive).toEqual([]);
    expect(log).toEqual(["server started", "connected", "disconnected", "server stopped"]);
    expect(clock.pending).toBe(0);
  });

  test("stopped while the server starts", async () => {
    let startServer: (() => void) | undefined;
    const supervisor = supervisorWith(
      {},
      {
        async startServer() {
          await new Promise<void>((resolve) => (startServer = resolve));
          return fakeServer(() => log.push("server stopped"));
        },
      },
    );
    const started = supervisor.start();
    started.catch(() => undefined);
    const stopped = supervisor.stop({ drain: true });
    startServer?.();
    await stopped;
    await expect(started).rejects.toMatchObject({ code: "cancelled" });
    expect(log).toEqual(["server stopped"]);
  });
});

test("kill ends everything without waiting", async () => {
  makeReady();
  const supervisor = supervisorWith();
  await supervisor.start();
  for (const role of fake.roles) role.answers = false;
  supervisor.kill();
  expect(fake.alive).toEqual([]);
});
