import { beforeEach, describe, expect, test } from "vitest";
import { Placements } from "../../../actors/protocol/placement.ts";
import type { ExpertSettings } from "../../../actors/protocol/role.ts";
import { offerRole } from "../../../actors/protocol/role-service.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { Supervisor, type SupervisorEvent, type SupervisorOptions } from "../../../actors/supervisor/supervisor.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { fakeServer } from "../../support/fake-nats-server.ts";
import { FakeFolder } from "../../support/fake-store-folder.ts";
import { FakeLaunch } from "../../support/fake-role-launch.ts";
import { topologyOf } from "../../support/topology.ts";

let clock: SimulatedClock;
let fake: FakeLaunch;
let durable: MemoryDurable;
let events: SupervisorEvent[];
/** What happens to the outside world, in order. */
let log: string[];
let serverOptions: unknown[];
let bus: MemoryBus;

beforeEach(() => {
  clock = new SimulatedClock();
  fake = new FakeLaunch();
  durable = new MemoryDurable({ clock });
  events = [];
  log = [];
  serverOptions = [];
  bus = new MemoryBus();
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
        return { bus, durable, serverVersion: "2.9.10", close: async () => void log.push("disconnected") };
      },
      requireProvider: async () => undefined,
      describeModel: async () => ({ modelHash: "abc", numExperts: 2 }),
      folder: new FakeFolder(),
      kill: () => undefined,
      ...ports,
    },
  });
}

async function placements(): Promise<Placements> {
  return await Placements.open(durable, subjectsOf("test"));
}

async function placement() {
  return await (await placements()).read("current");
}

/** Lets what waits for the network go on; `discover` waits for its quiet. */
async function settle(ms = 0): Promise<void> {
  for (let passed = 0; passed <= ms; passed += 100) {
    for (let turn = 0; turn < 10; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
    clock.advance(100);
  }
}

function makeReady(): void {
  fake.onLaunch = (role) => setImmediate(() => role.report({ kind: "ready" }));
}

test.each([
  ["cuda", undefined, undefined],
  ["cuda", "attention", "attention"],
  ["cpu", "experts", undefined],
] as const)("on %s, with the shared experts asked for at %s, the placement says %s", async (provider, asked, said) => {
  makeReady();
  const topology = { ...topologyOf(), provider, ...(asked !== undefined && { sharedExperts: asked }) };
  const supervisor = supervisorWith({ topology });
  await supervisor.start();
  expect((await placement())?.sharedExperts).toBe(said);
  await supervisor.stop({ drain: false });
});

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
  expect(await placement()).toMatchObject({ epoch: 1, shards: [[0], [1]], sharedExperts: "attention" });
  expect(supervisor.nats.description).toEqual({ url: "nats://127.0.0.1:4444", version: "2.9.10", source: "PATH" });
  expect(supervisor.pids).toHaveLength(3);
  expect(await supervisor.stats()).toHaveLength(3);

  await Promise.all([supervisor.stop({ drain: true }), supervisor.stop({ drain: true })]);
  expect(fake.alive).toEqual([]);
  expect(log).toEqual(["server started", "connected", "disconnected", "server stopped"]);
  expect(serverOptions).toEqual([{ maxStoreBytes: 2 ** 40, progress: expect.any(Function) }]);
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
  expect(await placement()).toMatchObject({ epoch: 1 });
  const removed = supervisorWith({ nats, removeAtStop: true });
  await removed.start();
  await removed.stop({ drain: true });
  expect(await placement()).toBeUndefined();
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

  test("a provider that this machine lacks: before anything starts", async () => {
    const asked: unknown[] = [];
    const supervisor = supervisorWith(
      { topology: topologyOf({ provider: "cuda" }) },
      {
        async requireProvider(provider) {
          asked.push(provider);
          throw new RallyError("provider-unavailable", "no GPU");
        },
      },
    );
    await expect(supervisor.start()).rejects.toMatchObject({ code: "provider-unavailable" });
    expect(asked).toEqual(["cuda"]);
    expect([log, fake.roles]).toEqual([[], []]);
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
    let arrive: () => void = () => undefined;
    let startServer: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (arrive = resolve));
    const supervisor = supervisorWith(
      {},
      {
        async startServer() {
          arrive();
          await new Promise<void>((resolve) => (startServer = resolve));
          return fakeServer(() => log.push("server stopped"));
        },
      },
    );
    const started = supervisor.start();
    started.catch(() => undefined);
    const stopped = supervisor.stop({ drain: true });
    await asked;
    startServer();
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

describe("membership", () => {
  const nats = { url: "nats://host:4222" };
  const shards = (count: number) => Array.from({ length: count }, (_, shard) => [shard]);
  const hosted = () =>
    fake.alive.flatMap(({ settings }) => (settings.role === "expert" ? [`${settings.epoch}.${settings.shard}`] : []));

  test("whoever joins takes the placement as it is", async () => {
    makeReady();
    await (await placements()).ensure({ deployment: "test", modelHash: "abc", shards: [[0, 1]] });
    const supervisor = supervisorWith({ nats, placement: "join", topology: topologyOf({ numAttention: 0 }) });
    await supervisor.start();
    expect(hosted()).toEqual(["1.0"]);
    expect(fake.roles.map(({ settings }) => settings.role)).toEqual(["expert"]);
    expect(supervisor.placement).toMatchObject({ epoch: 1, shards: [[0, 1]] });
    await supervisor.stop({ drain: false });
  });

  test("nothing to join, a shard that does not exist: nothing is started", async () => {
    const nothing = supervisorWith({ nats, placement: "join" });
    await expect(nothing.start()).rejects.toMatchObject({ code: "unknown-deployment" });
    await (await placements()).ensure({ deployment: "test", modelHash: "abc", shards: [[0, 1]] });
    const wrong = supervisorWith({ nats, placement: "join", shards: [1] });
    await expect(wrong.start()).rejects.toMatchObject({ code: "bad-settings" });
    expect(fake.roles).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  test("a placement to come gets its experts while the present one keeps its own", async () => {
    makeReady();
    const supervisor = supervisorWith({ nats });
    await supervisor.start();
    const bucket = await placements();
    const planned = await bucket.plan({ deployment: "test", modelHash: "abc", shards: [[0, 1]] });
    await settle();
    expect(hosted()).toEqual(["1.0", "1.1", "2.0"]);
    expect(fake.last.settings.id).toMatch(/^expert-0-e2-/u);
    await bucket.publish(planned);
    await settle();
    expect(hosted()).toEqual(["1.0", "1.1", "2.0"]);
    // The old ones find out that nobody uses them.
    for (const role of fake.alive) {
      if (role.settings.role !== "expert" || role.settings.epoch !== 1) continue;
      role.report({ kind: "retired", why: "followed" });
      role.exit("ended with status 0");
    }
    clock.advance(10_000);
    await settle();
    expect(hosted()).toEqual(["2.0"]);
    expect(supervisor.pids).toHaveLength(2);
    await supervisor.stop({ drain: true });
    expect(fake.alive).toEqual([]);
  });

  test("another model's placement, and one of the past, is nothing to host", async () => {
    makeReady();
    const bucket = await placements();
    await bucket.plan({ deployment: "test", modelHash: "abc", shards: [[0, 1]] });
    const supervisor = supervisorWith({ nats });
    await supervisor.start();
    expect(supervisor.placement.epoch).toBe(2);
    await bucket.plan({ deployment: "test", modelHash: "def", shards: [[0, 1]] });
    await settle();
    expect(hosted()).toEqual(["2.0", "2.1"]);
    await supervisor.stop({ drain: false });
  });

  describe("a current placement that makes no sense", () => {
    const nonsense: [string, Uint8Array][] = [
      ["no placement at all", Uint8Array.of(0xc1)],
      ["removed", new Uint8Array()],
      [
        "one that no model has",
        encode({ kind: "placement", epoch: 1, deployment: "test", modelHash: "abc", shards: [] }),
      ],
    ];
    test.each(nonsense)("%s: the last good one is put back, and nothing is started or ended", async (_, bytes) => {
      makeReady();
      const supervisor = supervisorWith();
      await supervisor.start();
      const moved = { deployment: "test", modelHash: "abc", shards: [[0, 1]] };
      await (await placements()).publish(await (await placements()).plan(moved));
      await settle();
      const pids = supervisor.pids;
      const bucket = await durable.keyValue(subjectsOf("test").placementBucket);
      for (let times = 1; times <= 2; times++) {
        await bucket.put("current", bytes);
        await settle();
        expect(await placement()).toMatchObject({ epoch: 2, shards: moved.shards });
        const told = events.filter(
          (event) => event.kind === "warning" && event.text.includes("placement 2 is put back"),
        );
        expect(told).toHaveLength(times);
      }
      expect(supervisor.pids).toEqual(pids);
      await supervisor.stop({ drain: false });
    });
  });

  test("chosen shards are those of their placement: with it they leave, and the supervisor is done", async () => {
    makeReady();
    await (await placements()).ensure({ deployment: "test", modelHash: "abc", shards: shards(2) });
    const topology = topologyOf({ numAttention: 0, numReplicas: 2 });
    const supervisor = supervisorWith({ nats, placement: "join", shards: [1], topology });
    await supervisor.start();
    expect(hosted()).toEqual(["1.1", "1.1"]);
    let isRetired = false;
    void supervisor.retired.then(() => (isRetired = true));
    await (await placements()).plan({ deployment: "test", modelHash: "abc", shards: [[0, 1]] });
    await settle();
    expect(hosted()).toEqual(["1.1", "1.1"]);
    for (const role of fake.alive) {
      expect(isRetired).toBe(false);
      role.report({ kind: "retired", why: "followed" });
      role.exit("ended with status 0");
      await settle();
    }
    expect(isRetired).toBe(true);
    await supervisor.stop({ drain: true });
  });

  test("a server of our own stays until actors of others have left it", async () => {
    makeReady();
    const supervisor = supervisorWith();
    await supervisor.start();
    const settings = { role: "expert", id: "expert-0-x", deployment: "test", epoch: 1, shard: 0 } as ExpertSettings;
    const other = offerRole(bus.connect(), settings, new Date(0), () => Promise.reject(new Error("not asked")));
    const stopped = supervisor.stop({ drain: true });
    await settle(3_000);
    expect(fake.alive).toEqual([]);
    expect(log.at(-1)).toBe("connected");
    expect(events.at(-1)).toMatchObject({ kind: "warning", text: expect.stringContaining("1 actors that joined") });
    other.unsubscribe();
    await settle(3_000);
    await stopped;
    expect(log.slice(-2)).toEqual(["disconnected", "server stopped"]);
    expect(clock.pending).toBe(0);
  });
});

test("a server that does not answer is replaced", async () => {
  makeReady();
  const killed: string[] = [];
  const supervisor = supervisorWith({}, { kill: (_pid, signal) => killed.push(signal) });
  await supervisor.start();
  durable.interrupt();
  await settle(7_000);
  expect(killed).toEqual(["SIGKILL"]);
  durable.restore();
  await supervisor.stop({ drain: false });
  expect(clock.pending).toBe(0);
});
