import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { BusMessage, PublishOptions } from "../../infra/bus.ts";
import { NatsBus } from "../../infra/nats-bus.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import { haveAddon } from "../support/addon.ts";
import { startTestServer, type TestServer } from "../support/nats.ts";
import { busContract, type BusHarness } from "./bus.contract.ts";

/** Takes every subject to have one subscriber; the suite has large payloads only on such. */
class SingleReceiverBus extends NatsBus {
  override publish(subject: string, payload: Uint8Array, reply?: string, options: PublishOptions = {}): void {
    super.publish(subject, payload, reply, { ...options, single: true });
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
  harness(openWireLink, (link) => new SingleReceiverBus(link, { shared: "copied" })),
);
if (await haveAddon()) {
  busContract(
    "nats wire with mapped memory",
    harness(openWireLink, (link) => new SingleReceiverBus(link, { shared: true })),
  );
}

/** What starts one, a ticket, the ticket's CRC-32. */
const DOORBELL_BYTES = 8 + 56 + 4;

const ways = [{ way: "copied" }, { way: "mapped" }].slice(0, (await haveAddon()) ? 2 : 1);

describe.skipIf(process.platform !== "linux").each(ways)("payloads through shared memory, $way", ({ way }) => {
  const shared = way === "mapped" || "copied";
  let server: TestServer;
  let sender: NatsBus;
  let observer: NatsLink;
  const sizes: number[] = [];

  beforeEach(async () => {
    sizes.length = 0;
    server = await startTestServer();
    sender = new NatsBus(await openWireLink({ url: server.url }, "sender"), { shared });
    observer = await openWireLink({ url: server.url }, "observer");
    observer.subscribe("large", ({ payload }) => sizes.push(payload.length));
    await observer.flush();
  });
  afterEach(async () => {
    await Promise.all([sender.close(), observer.close()]);
    await server.stop();
  });

  it("only a doorbell crosses the server, for large payloads with a single receiver", async () => {
    const receiver = new NatsBus(await openWireLink({ url: server.url }, "receiver"), { shared });
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
    expect(sizes).toEqual([DOORBELL_BYTES, 100_000, 1000]);
    await receiver.close();
  });

  it("a receiver that cannot reach the memory gets the payload as it is, then and from then on", async () => {
    const arrived: string[] = [];
    const remote = await openWireLink({ url: server.url }, "remote");
    remote.subscribe(
      "large",
      ({ payload, reply }) => {
        arrived.push(`${payload.length} ${reply}`);
        if (payload.length !== DOORBELL_BYTES) return;
        const ticket = new Uint8Array(payload.subarray(8, -4));
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
    expect(arrived).toEqual([`${DOORBELL_BYTES} answer.1`, "100000 answer.1", "100000 answer.2"]);
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

  it("are sealed only where they leave it", async () => {
    const sealed: number[] = [];
    const publish = (length: number) =>
      sender.publish("large", new Uint8Array(length), undefined, {
        single: true,
        seal: (payload) => {
          sealed.push(payload.length);
          payload[0] = 9;
        },
      });
    const seen: string[] = [];
    const heed = ({ payload, isShared }: BusMessage) => void seen.push(`${payload.length} ${payload[0]} ${isShared}`);
    const receiver = new NatsBus(await openWireLink({ url: server.url }, "receiver"), { shared });
    const subscription = receiver.subscribe("large", heed, { queue: "q" });
    await receiver.flush();
    publish(100_000);
    publish(1000);
    await expect.poll(() => seen).toEqual(["100000 0 true", "1000 9 undefined"]);
    subscription.unsubscribe();
    await receiver.flush();
    expect(sealed).toEqual([1000]);
    // Another host: it comes back, and goes as it is.
    const far = new NatsBus(await openWireLink({ url: server.url }, "far"));
    far.subscribe("large", heed);
    await far.flush();
    publish(50_000);
    await expect.poll(() => seen.at(-1)).toBe("50000 9 undefined");
    expect(sealed).toEqual([1000, 50_000]);
    await Promise.all([receiver.close(), far.close()]);
  });

  it("of which the doorbell was changed on its way are not handed out, nor is anything else", async () => {
    const good: Uint8Array[] = [];
    const [thief, receiver] = [
      await openWireLink({ url: server.url }, "thief"),
      new NatsBus(await openWireLink({ url: server.url }, "receiver"), { shared }),
    ];
    thief.subscribe("large", ({ payload }) => void good.push(Uint8Array.from(payload)), "q");
    await thief.flush();
    const seen: number[] = [];
    receiver.subscribe("changed", ({ payload }) => void seen.push(payload[0] ?? -1));
    await receiver.flush();
    for (const byte of [1, 2]) sender.publish("large", new Uint8Array(100_000).fill(byte), undefined, { single: true });
    await expect.poll(() => good).toHaveLength(2);
    const [first, second] = good;
    if (first === undefined || second === undefined) throw new Error("no doorbells");
    // Each bit of the ticket, one byte of each pair in turn.
    for (let at = 8; at < DOORBELL_BYTES; at++)
      thief.publish("changed", first.with(at, (first[at] ?? 0) ^ (1 << (at % 8))));
    // Offset and use of the second, where the first's length is.
    thief.publish("changed", Uint8Array.from([...second.subarray(0, 48), ...first.subarray(48)]));
    thief.publish("changed", second);
    await expect.poll(() => seen).toEqual([2]);
    thief.publish("changed", first);
    await expect.poll(() => seen).toEqual([2, 1]);
    await Promise.all([thief.close(), receiver.close()]);
  });

  it("made in the bus' own memory reach receivers of any kind", async () => {
    const seen: string[] = [];
    const heed =
      (name: string) =>
      ({ payload, isShared }: BusMessage) =>
        void seen.push(`${name} ${payload.length} ${payload.at(-1)} ${isShared}`);
    const open = async (name: string, ours: boolean | "copied") =>
      new NatsBus(await openWireLink({ url: server.url }, name), { shared: ours });
    const receivers = await Promise.all([open("one", shared), open("two", "copied"), open("far", false)]);
    const names = ["one", "two", "far"];
    for (const [i, receiver] of receivers.entries()) receiver.subscribe(`to.${names[i]}`, heed(names[i] ?? ""));
    await Promise.all(receivers.map((receiver) => receiver.flush()));
    const scratch = sender.scratch();
    const small = sender.scratch();
    for (let round = 0; round < 3; round++) {
      const payload = scratch.take(100_000).fill(round);
      for (const name of names) {
        small.take(10).fill(7);
        sender.publish(`to.${name}`, payload, undefined, { single: true, borrowed: true });
      }
      await expect.poll(() => seen.length).toBe(3 * (round + 1));
    }
    expect(seen.toSorted()).toEqual(
      names
        .flatMap((name) => [0, 1, 2].map((i) => `${name} 100000 ${i} ${name === "far" ? undefined : true}`))
        .toSorted(),
    );
    await Promise.all(receivers.map((receiver) => receiver.close()));
    await sender.close();
    expect(scratch.take(100_000)).toHaveLength(100_000);
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
