import { beforeEach, describe, expect, test } from "vitest";
import { SupervisedRole } from "../../../actors/supervisor/supervised-role.ts";
import { attentionSlots, type RoleSlot } from "../../../actors/supervisor/topology.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { FakeLaunch } from "../../support/fake-role-launch.ts";
import { topologyOf } from "../../support/topology.ts";

let clock: SimulatedClock;
let fake: FakeLaunch;
let role: SupervisedRole;
let events: string[];

beforeEach(() => {
  clock = new SimulatedClock();
  fake = new FakeLaunch();
  events = [];
  let starts = 0;
  const [slot] = attentionSlots(topologyOf(), { url: "nats://test" }, false);
  role = new SupervisedRole({
    slot: slot as RoleSlot,
    launch: fake.launch,
    clock,
    newSuffix: () => `s${++starts}`,
    listener: {
      progress: (name, text) => events.push(`${name} progress ${text}`),
      warning: (name, text) => events.push(`${name} warning ${text}`),
      ready: (name) => events.push(`${name} ready`),
      failed: (name, error) => events.push(`${name} failed ${error.code}`),
      retired: ({ name }, why) => events.push(`${name} retired ${why}`),
    },
  });
  role.start();
});

/** Milliseconds until the next process is launched. */
function untilNextLaunch(limitMs: number): number {
  const count = fake.roles.length;
  for (let ms = 1; ms <= limitMs; ms++) {
    clock.advance(1);
    if (fake.roles.length > count) return ms;
  }
  throw new Error(`nothing was launched within ${limitMs} ms`);
}

test("is ready when the process says so; each start has an id of its own", async () => {
  fake.last.report({ kind: "ready" });
  await role.ready;
  expect(fake.last.settings.id).toBe("attention-0-s1");
  fake.last.exit();
  untilNextLaunch(100);
  expect(fake.last.settings.id).toBe("attention-0-s2");
  expect(events[0]).toBe("attention-0 ready");
  expect(events[1]).toMatch(/warning attention-0 ended with status 1; starting it again in 100 ms/);
});

describe("back-off", () => {
  test("doubles from 100 ms to 5 s, and begins anew after 10 s of health", () => {
    const delays: number[] = [];
    for (let crash = 0; crash < 8; crash++) {
      fake.last.report({ kind: "ready" });
      clock.advance(9_999);
      fake.last.exit();
      delays.push(untilNextLaunch(10_000));
    }
    expect(delays).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    fake.last.report({ kind: "ready" });
    clock.advance(10_000);
    fake.last.exit();
    expect(untilNextLaunch(10_000)).toBe(100);
  });

  test("a process that was never ready is given up after five tries, with its own words", async () => {
    for (let tries = 1; tries < 5; tries++) {
      fake.last.exit("ended by SIGSEGV", "Segmentation fault");
      untilNextLaunch(5000);
    }
    fake.last.exit("ended by SIGSEGV", "Segmentation fault");
    await expect(role.ready).rejects.toThrow("attention-0 ended by SIGSEGV, after printing: Segmentation fault");
    expect(events.at(-1)).toBe("attention-0 failed internal");
    expect(clock.pending).toBe(0);
  });

  test.each(["bad-model", "unsupported-model", "bad-settings"] as const)("%s is not tried again", async (code) => {
    fake.last.report({ kind: "failed", error: new RallyError(code, "no such thing", { field: "x" }).toWire() });
    fake.last.exit();
    await expect(role.ready).rejects.toMatchObject({ code, fields: { field: "x" } });
    expect(fake.roles).toHaveLength(1);
    expect(clock.pending).toBe(0);
  });

  test("other failures are tried again", () => {
    fake.last.report({ kind: "failed", error: new RallyError("server-unavailable", "no server").toWire() });
    fake.last.exit();
    expect(untilNextLaunch(1000)).toBe(100);
    expect(events).toEqual(["attention-0 warning no server; starting it again in 100 ms"]);
  });
});

describe("a role that nobody needs any more", () => {
  test("is not started again after it has said so", async () => {
    fake.last.report({ kind: "ready" });
    fake.last.report({ kind: "retired", why: "placement 1 was followed by 2" });
    expect(events).toEqual(["attention-0 ready"]);
    fake.last.exit("ended with status 0");
    expect(events.at(-1)).toBe("attention-0 retired placement 1 was followed by 2");
    clock.advance(100_000);
    expect(fake.roles).toHaveLength(1);
    expect(clock.pending).toBe(0);
  });

  test("nor one that comes too late for its placement; whoever waits for it goes on", async () => {
    fake.last.report({ kind: "failed", error: new RallyError("stale-epoch", "followed by another").toWire() });
    fake.last.exit();
    await role.ready;
    expect(events).toEqual(["attention-0 retired followed by another"]);
    expect(clock.pending).toBe(0);
  });
});

describe("a silent process", () => {
  test("is killed after five unanswered probes and started again", () => {
    fake.last.report({ kind: "ready" });
    clock.advance(60_000);
    expect(fake.roles).toHaveLength(1);
    const hung = fake.last;
    hung.answers = false;
    clock.advance(12_000);
    expect(hung.signals).toEqual(["SIGKILL"]);
    expect(untilNextLaunch(1000)).toBe(100);
    expect(events.at(-1)).toMatch(/attention-0 is silent .* and was killed; starting it again/);
  });

  test("is forgiven as soon as it says anything", () => {
    const slow = fake.last;
    slow.report({ kind: "ready" });
    slow.answers = false;
    for (let times = 0; times < 5; times++) {
      clock.advance(9_000);
      slow.report({ kind: "warning", text: "still here" });
    }
    expect(slow.signals).toEqual([]);
  });

  test("that hangs while starting is killed too, unless it reports progress", () => {
    for (let minute = 0; minute < 5; minute++) {
      clock.advance(60_000);
      fake.last.report({ kind: "progress", text: "writing graphs" });
    }
    expect(fake.last.signals).toEqual([]);
    const hung = fake.last;
    clock.advance(120_000);
    expect(hung.signals).toEqual(["SIGKILL"]);
  });
});

describe("asking", () => {
  test("answers come back", async () => {
    fake.last.report({ kind: "ready" });
    expect(await role.stats(1000)).toEqual(fake.last.stats);
    expect(await role.trace(1000)).toEqual([]);
  });

  test("no answer in time, or from a process that dies, is none", async () => {
    fake.last.report({ kind: "ready" });
    fake.last.answers = false;
    const late = role.stats(1000);
    clock.advance(1000);
    expect(await late).toBeUndefined();
    const lost = [role.stats(1000), role.trace(1000)];
    fake.last.exit();
    expect(await Promise.all(lost)).toEqual([undefined, []]);
    expect(await role.stats(1000)).toBeUndefined();
  });
});

describe("ending", () => {
  test("a drained process is not started again, and no timer is left", async () => {
    fake.last.report({ kind: "ready" });
    await role.drain(1000);
    expect(fake.last.commands).toEqual(["drain"]);
    expect(fake.roles).toHaveLength(1);
    expect(clock.pending).toBe(0);
  });

  test("one that does not drain in time is killed", async () => {
    fake.last.report({ kind: "ready" });
    fake.last.answers = false;
    const drained = role.drain(1000);
    clock.advance(999);
    expect(fake.last.signals).toEqual([]);
    clock.advance(1);
    await drained;
    expect(fake.last.signals).toEqual(["SIGKILL"]);
    expect(clock.pending).toBe(0);
  });

  test("one that still starts is ended at once", async () => {
    await role.drain(1000);
    expect(fake.last.commands).toEqual([]);
    expect(fake.alive).toEqual([]);
  });

  test("one that waits for its next start never starts", async () => {
    fake.last.report({ kind: "ready" });
    fake.last.exit();
    await role.end();
    clock.advance(100_000);
    expect(fake.roles).toHaveLength(1);
    expect(clock.pending).toBe(0);
  });
});
