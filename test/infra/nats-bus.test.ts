import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { NatsBus } from "../../infra/nats-bus.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import { startTestServer, type TestServer } from "../support/nats.ts";
import { busContract, type BusHarness } from "./bus.contract.ts";

/** Takes every subject to have one subscriber; the suite has large payloads only on such. */
class SingleReceiverBus extends NatsBus {
  override publish(subject: string, payload: Uint8Array, reply?: string): void {
    super.publish(subject, payload, reply, { single: true });
  }
}

type Open = (settings: NatsSettings, name: string) => Promise<NatsLink>;

const harness = (open: Open, makeBus: (link: NatsLink) => NatsBus) => async (): Promise<BusHarness> => {
  const server = await startTestServer({ maxPayload: 2 * 1024 * 1024 });
  return {
    connect: async () => makeBus(await open({ url: server.url }, "test")),
    interrupt: () => server.kill(),
    restore: () => server.restart(),
    close: () => server.stop(),
  };
};

busContract(
  "nats client",
  harness(openClientLink, (link) => new NatsBus(link)),
);
busContract(
  "nats wire",
  harness(openWireLink, (link) => new NatsBus(link)),
);
busContract(
  "nats wire with shared memory",
  harness(openWireLink, (link) => new SingleReceiverBus(link, { shared: true })),
);

describe.skipIf(process.platform !== "linux")("payloads through shared memory", () => {
  let server: TestServer;
  let sender: NatsBus;
  let observer: NatsLink;
  const sizes: number[] = [];

  beforeEach(async () => {
    sizes.length = 0;
    server = await startTestServer();
    sender = new NatsBus(await openWireLink({ url: server.url }, "sender"), { shared: true });
    observer = await openWireLink({ url: server.url }, "observer");
    observer.subscribe("large", ({ payload }) => sizes.push(payload.length));
    await observer.flush();
  });
  afterEach(async () => {
    await Promise.all([sender.close(), observer.close()]);
    await server.stop();
  });

  it("only a doorbell crosses the server, for large payloads with a single receiver", async () => {
    const receiver = new NatsBus(await openWireLink({ url: server.url }, "receiver"), { shared: true });
    const seen: string[] = [];
    receiver.subscribe("large", ({ payload, reply }) => seen.push(`${payload.length} ${payload[0]} ${reply}`), {
      queue: "q",
    });
    await receiver.flush();
    sender.publish("large", new Uint8Array(100_000).fill(1), "answer.1", { single: true });
    sender.publish("large", new Uint8Array(100_000).fill(2), "answer.2");
    sender.publish("large", new Uint8Array(1000).fill(3), undefined, { single: true });
    await sender.flush();
    await receiver.flush();
    await observer.flush();
    expect(seen).toEqual(["100000 1 answer.1", "100000 2 answer.2", "1000 3 undefined"]);
    expect(sizes).toEqual([64, 100_000, 1000]);
    await receiver.close();
  });

  it("a receiver that cannot reach the memory gets the payload as it is, then and from then on", async () => {
    const arrived: string[] = [];
    const remote = await openWireLink({ url: server.url }, "remote");
    remote.subscribe(
      "large",
      ({ payload, reply }) => {
        arrived.push(`${payload.length} ${reply}`);
        if (payload.length !== 64) return;
        const ticket = new Uint8Array(payload.subarray(8));
        remote.publish(`_INBOX.${Buffer.from(ticket.subarray(0, 16)).toString("hex")}`, ticket);
      },
      "q",
    );
    await remote.flush();
    for (const reply of ["answer.1", "answer.2"]) {
      sender.publish("large", new Uint8Array(100_000), reply, { single: true });
      for (let i = 0; i < 3; i++) {
        await sender.flush();
        await remote.flush();
      }
    }
    expect(arrived).toEqual(["64 answer.1", "100000 answer.1", "100000 answer.2"]);
    await remote.close();
  });

  it("a receiver that came from another host, and shares nothing itself, gets the payload as well", async () => {
    const receiver = new NatsBus(await openWireLink({ url: server.url }, "receiver"));
    try {
      const lengths: number[] = [];
      receiver.subscribe("large", ({ payload }) => lengths.push(payload.length));
      await receiver.flush();
      sender.publish("large", new Uint8Array(100_000).fill(7), undefined, { single: true });
      await expect.poll(() => lengths).toEqual([100_000]);
      sender.publish("large", new Uint8Array(50_000), undefined, { single: true });
      await expect.poll(() => lengths).toEqual([100_000, 50_000]);
    } finally {
      await receiver.close();
    }
  });

  it("says no responders when there is no receiver", async () => {
    const noResponders: boolean[] = [];
    sender.subscribe("answers", (message) => noResponders.push(message.noResponders));
    sender.publish("nobody", new Uint8Array(100_000), "answers", { single: true });
    await sender.flush();
    expect(noResponders).toEqual([true]);
  });
});

it("notices a server that is alive but silent, and comes back when it speaks again", async () => {
  const server = await startTestServer();
  const bus = new NatsBus(await openWireLink({ url: server.url }, "test", { pingMs: 100 }));
  const seen: string[] = [];
  const reached = (wanted: string): Promise<void> =>
    new Promise((resolve) => {
      const status = bus.onStatus((now) => {
        seen.push(now);
        if (now === wanted) resolve();
        if (now === wanted) status.unsubscribe();
      });
    });
  try {
    const down = reached("disconnected");
    process.kill(server.running.pid, "SIGSTOP");
    await down;
    const up = reached("connected");
    process.kill(server.running.pid, "SIGCONT");
    await up;
    await bus.flush();
    expect(seen).toEqual(["disconnected", "connected"]);
  } finally {
    process.kill(server.running.pid, "SIGCONT");
    await bus.close();
    await server.stop();
  }
});
