import { beforeEach, describe, expect, test } from "vitest";
import { discover } from "../../../actors/protocol/discovery.ts";
import type { AttentionSettings, ExpertSettings, RoleStats } from "../../../actors/protocol/role.ts";
import { describeRole, offerRole } from "../../../actors/protocol/role-service.ts";
import { serviceSubject } from "../../../actors/protocol/service.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";

const expert = {
  role: "expert",
  id: "expert-1-ab",
  deployment: "d",
  epoch: 7,
  shard: 1,
} as ExpertSettings;
const attention = { role: "attention", id: "attention-0-cd", deployment: "d" } as AttentionSettings;
const started = new Date(1_700_000_000_000);

const expertStats = {
  role: "expert",
  id: "expert-1-ab",
  batches: 4,
  busyMs: 10,
  badMessages: 2,
} as RoleStats;

let bus: MemoryBus;
let clock: SimulatedClock;

beforeEach(() => {
  clock = new SimulatedClock();
  bus = new MemoryBus({ clock });
});

async function ask(subject: string): Promise<Record<string, unknown>> {
  const { payload } = await bus.request(subject, new Uint8Array(), 1000);
  return JSON.parse(Buffer.from(payload).toString()) as Record<string, unknown>;
}

describe("a role answers as a service", () => {
  beforeEach(() => {
    offerRole(bus, expert, started, async () => expertStats);
  });

  test.each([
    serviceSubject("PING"),
    serviceSubject("PING", "rally-expert"),
    serviceSubject("PING", "rally-expert", "expert-1-ab"),
  ])("on %s", async (subject) => {
    expect(await ask(subject)).toEqual({
      type: "io.nats.micro.v1.ping_response",
      name: "rally-expert",
      id: "expert-1-ab",
      version: expect.stringMatching(/^\d+\.\d+\.\d+/u),
      metadata: { deployment: "d", host: expect.any(String), pid: String(process.pid), shard: "1", epoch: "7" },
    });
  });

  test("with what it takes in", async () => {
    expect(await ask("$SRV.INFO.rally-expert")).toMatchObject({
      type: "io.nats.micro.v1.info_response",
      description: expect.stringContaining("Rally"),
      endpoints: [{ name: "ffn", subject: "rally.d.ffn.7.1", queue_group: "shard-1" }],
    });
  });

  test("with its sums", async () => {
    expect(await ask("$SRV.STATS.rally-expert")).toMatchObject({
      type: "io.nats.micro.v1.stats_response",
      started: "2023-11-14T22:13:20.000Z",
      endpoints: [
        {
          num_requests: 4,
          num_errors: 2,
          last_error: "",
          processing_time: 10_000_000,
          average_processing_time: 2_500_000,
          data: expertStats,
        },
      ],
    });
  });

  test("and a message without a reply subject is nothing to answer", async () => {
    bus.publish("$SRV.PING", new Uint8Array(3));
    expect(await ask("$SRV.PING")).toMatchObject({ id: "expert-1-ab" });
  });
});

test("an attention actor is known by the queue it takes from", () => {
  expect(describeRole(attention, started)).toMatchObject({
    name: "rally-attention",
    metadata: { deployment: "d" },
    endpoint: { subject: "rally.d.request", queueGroup: "workers" },
  });
});

describe("discovery", () => {
  async function found(options: Partial<Parameters<typeof discover>[0]> = {}) {
    const result = discover({ bus, clock, ...options });
    for (let i = 0; i < 30; i++) {
      await new Promise<void>((resolve) => void setImmediate(resolve));
      clock.advance(100);
    }
    return await result;
  }

  test("nobody is there: known at once", async () => {
    expect(await found()).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  test("everybody, sorted, each once", async () => {
    const services = [
      offerRole(bus, expert, started, async () => expertStats),
      offerRole(bus.connect(), { ...expert, id: "expert-0-zz", shard: 0 }, started, async () => expertStats),
      offerRole(bus.connect(), attention, started, async () => expertStats),
    ];
    const all = await found();
    expect(all.map(({ role, id, shard, epoch }) => [role, id, shard, epoch])).toEqual([
      ["attention", "attention-0-cd", undefined, undefined],
      ["expert", "expert-0-zz", 0, 7],
      ["expert", "expert-1-ab", 1, 7],
    ]);
    expect(all.every(({ stats }) => stats === undefined)).toBe(true);
    const [first] = await found({ role: "expert", withStats: true });
    expect(first).toMatchObject({ id: "expert-0-zz", deployment: "d", stats: expertStats });
    for (const service of services) service.unsubscribe();
    expect(await found()).toEqual([]);
  });

  test("answers that make no sense are none", async () => {
    for (const text of ["", "no json", "null", "[]", '{"id":1}', '{"id":"x","version":"1.0.0","metadata":{}}']) {
      bus.subscribe("$SRV.PING.rally-expert", ({ reply }) => bus.publish(reply ?? "none", Buffer.from(text)));
    }
    offerRole(bus, expert, started, async () => expertStats);
    expect((await found()).map(({ id }) => id)).toEqual(["expert-1-ab"]);
  });

  test("somebody who answers for ever does not keep it waiting", async () => {
    bus.subscribe("$SRV.PING.rally-expert", ({ reply }) => {
      const again = () => {
        bus.publish(reply ?? "none", Buffer.from("{}"));
        clock.after(100, again);
      };
      again();
    });
    const result = discover({ bus, clock, role: "expert" });
    for (let i = 0; i < 21; i++) {
      await new Promise<void>((resolve) => void setImmediate(resolve));
      clock.advance(100);
    }
    expect(await result).toEqual([]);
  });
});
