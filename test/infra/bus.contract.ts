import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Bus, BusMessage, BusStatus } from "../../infra/bus.ts";
import { RallyError } from "../../infra/errors.ts";

/** One server (or none, in memory) that a suite may take away and bring back. */
export interface BusHarness {
  connect(): Promise<Bus>;
  /** Breaks every connection and lets none through until `restore`. */
  interrupt(): Promise<void>;
  restore(): Promise<void>;
  close(): Promise<void>;
}

const text = (payload: Uint8Array): string => Buffer.from(payload).toString();
const bytes = (value: string): Uint8Array => Buffer.from(value);

/** Collects messages as copies; `received(n)` resolves when n have come. */
class Inbox {
  readonly messages: BusMessage[] = [];
  #wanted = 0;
  #resolve: (() => void) | undefined;

  readonly handler = (message: BusMessage): void => {
    this.messages.push({ ...message, payload: new Uint8Array(message.payload) });
    if (this.messages.length >= this.#wanted) this.#resolve?.();
  };

  get texts(): string[] {
    return this.messages.map(({ payload }) => text(payload));
  }

  async received(count: number): Promise<BusMessage[]> {
    this.#wanted = count;
    if (this.messages.length < count) await new Promise<void>((resolve) => (this.#resolve = resolve));
    return this.messages;
  }
}

async function failure(promise: Promise<unknown>): Promise<RallyError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof RallyError) return error;
    throw error;
  }
  throw new Error("expected a RallyError");
}

async function reaches(bus: Bus, wanted: BusStatus): Promise<void> {
  await new Promise<void>((resolve) => {
    const subscription = bus.onStatus((status) => {
      if (status !== wanted) return;
      subscription.unsubscribe();
      resolve();
    });
  });
}

export function busContract(name: string, open: () => Promise<BusHarness>): void {
  describe(`bus contract: ${name}`, () => {
    let harness: BusHarness;
    let a: Bus;
    let b: Bus;
    const buses: Bus[] = [];
    const connect = async (): Promise<Bus> => {
      const bus = await harness.connect();
      buses.push(bus);
      return bus;
    };

    beforeEach(async () => {
      harness = await open();
      a = await connect();
      b = await connect();
    });

    afterEach(async () => {
      for (const bus of buses.splice(0)) await bus.close();
      await harness.close();
    });

    it("delivers in order, with subject and reply, never inside publish", async () => {
      const inbox = new Inbox();
      b.subscribe("x.one", inbox.handler);
      await b.flush();
      for (let i = 0; i < 100; i++) a.publish("x.one", bytes(String(i)), i === 7 ? "answer.here" : undefined);
      expect(inbox.messages).toHaveLength(0);
      await inbox.received(100);
      expect(inbox.texts).toEqual(Array.from({ length: 100 }, (_, i) => String(i)));
      expect(inbox.messages[7]?.reply).toBe("answer.here");
      expect(inbox.messages[8]).toMatchObject({ reply: undefined, subject: "x.one", noResponders: false });
    });

    it("delivers to the publisher's own subscription, outside publish", async () => {
      const inbox = new Inbox();
      a.subscribe("self", inbox.handler);
      a.publish("self", bytes("me"));
      expect(inbox.messages).toHaveLength(0);
      await inbox.received(1);
    });

    it("matches `*` for one token and `>` for one or more", async () => {
      const star = new Inbox();
      const tail = new Inbox();
      b.subscribe("w.*.end", star.handler);
      b.subscribe("w.>", tail.handler);
      await b.flush();
      for (const subject of ["w.a.end", "w", "w.a.b.end", "w.b.end", "w.a"]) a.publish(subject, bytes(subject));
      await tail.received(4);
      expect(tail.texts).toEqual(["w.a.end", "w.a.b.end", "w.b.end", "w.a"]);
      await b.flush();
      expect(star.texts).toEqual(["w.a.end", "w.b.end"]);
    });

    it("gives each message of a queue group to one member, and all to other subscribers", async () => {
      const [one, two, all] = [new Inbox(), new Inbox(), new Inbox()];
      b.subscribe("q.work", one.handler, { queue: "workers" });
      const c = await connect();
      c.subscribe("q.work", two.handler, { queue: "workers" });
      c.subscribe("q.work", all.handler);
      await b.flush();
      await c.flush();
      for (let i = 0; i < 200; i++) a.publish("q.work", bytes(String(i)));
      await all.received(200);
      await b.flush();
      await c.flush();
      expect(one.messages.length + two.messages.length).toBe(200);
      expect(one.messages.length).toBeGreaterThan(20);
      expect(two.messages.length).toBeGreaterThan(20);
    });

    it("stops after unsubscribe, whatever is still on its way", async () => {
      const inbox = new Inbox();
      const subscription = b.subscribe("stop", inbox.handler);
      await b.flush();
      a.publish("stop", bytes("1"));
      await inbox.received(1);
      a.publish("stop", bytes("2"));
      subscription.unsubscribe();
      await a.flush();
      await b.flush();
      expect(inbox.texts).toEqual(["1"]);
    });

    it("a handler may subscribe, unsubscribe and publish", async () => {
      const inbox = new Inbox();
      const first = b.subscribe("chain.1", () => {
        first.unsubscribe();
        b.subscribe("chain.2", inbox.handler);
        b.publish("chain.2", bytes("from within"));
      });
      await b.flush();
      a.publish("chain.1", bytes(""));
      expect(text((await inbox.received(1))[0]?.payload ?? bytes("none"))).toBe("from within");
    });

    it("tells the publisher at once when nobody listens", async () => {
      const inbox = new Inbox();
      a.subscribe("replies.*", inbox.handler);
      a.publish("nobody.home", bytes("knock"), "replies.knock");
      const [message] = await inbox.received(1);
      expect(message).toMatchObject({ subject: "replies.knock", noResponders: true });
      expect(message?.payload).toHaveLength(0);
      expect(await failure(a.request("nobody.home", bytes("knock"), 10_000))).toMatchObject({ code: "no-responders" });
    });

    it("an empty message is not a no-responders message", async () => {
      b.subscribe("empty", ({ reply }) => b.publish(reply ?? "lost", bytes("")));
      await b.flush();
      const answer = await a.request("empty", bytes(""), 5000);
      expect(answer.noResponders).toBe(false);
      expect(answer.payload).toHaveLength(0);
    });

    it("answers requests, many at once, each with its own", async () => {
      b.subscribe("double", ({ payload, reply }) => {
        if (reply !== undefined) b.publish(reply, bytes(String(Number(text(payload)) * 2)));
      });
      await b.flush();
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, i) => a.request("double", bytes(String(i)), 5000)),
      );
      expect(answers.map(({ payload }) => text(payload))).toEqual(Array.from({ length: 50 }, (_, i) => String(i * 2)));
    });

    it("a request without an answer ends in a timeout", async () => {
      b.subscribe("silent", () => {});
      await b.flush();
      expect(await failure(a.request("silent", bytes("?"), 30))).toMatchObject({ code: "timeout" });
    });

    it("carries payloads of every size up to maxPayload and refuses one byte more", async () => {
      const sizes = [0, 1, 2, 100, 4096, 65_535, 65_536, 65_537, 300_000, a.maxPayload - 1, a.maxPayload];
      const payloads = sizes.map((size, i) => pattern(size, i));
      const expected = payloads.map((payload) => `${payload.length}:${checksum(payload)}`);
      const sums: string[] = [];
      const all = new Promise<void>((resolve) => {
        b.subscribe("big", ({ payload }) => {
          sums.push(`${payload.length}:${checksum(payload)}`);
          if (sums.length === sizes.length) resolve();
        });
      });
      await b.flush();
      for (const payload of payloads) a.publish("big", payload);
      await all;
      expect(sums).toEqual(expected);
      expect(() => a.publish("big", new Uint8Array(a.maxPayload + 1))).toThrow(
        expect.objectContaining({
          code: "payload-too-large",
          fields: { field: "payload", found: a.maxPayload + 1, limit: a.maxPayload },
        }),
      );
    });

    it("brings what was made in its own memory, which is used again", async () => {
      const inbox = new Inbox();
      b.subscribe("made.*", inbox.handler);
      await b.flush();
      const [scratch, other] = [a.scratch(), a.scratch()];
      for (let i = 0; i < 20; i++) {
        const length = i % 3 === 0 ? 100 : 50_000 + i;
        const payload = scratch.take(length).fill(i);
        other.take(60_000).fill(99);
        for (const subject of ["made.one", "made.two"])
          a.publish(subject, payload, undefined, { borrowed: true, single: true });
      }
      const messages = await inbox.received(40);
      for (const [at, { payload }] of messages.entries()) {
        const i = at >> 1;
        expect(payload.length).toBe(i % 3 === 0 ? 100 : 50_000 + i);
        expect(payload.every((byte) => byte === i)).toBe(true);
      }
    });

    it("has what may be damaged on its way sealed first", async () => {
      const inbox = new Inbox();
      b.subscribe("sealed", inbox.handler);
      await b.flush();
      const payload = bytes("to be sealed");
      a.publish("sealed", payload, undefined, { borrowed: true, seal: (lent) => lent.fill(0x78) });
      payload.fill(0x79);
      a.publish("sealed", bytes("to be sealed"), undefined, { seal: (given) => given.fill(0x7a) });
      await inbox.received(2);
      expect(inbox.texts).toEqual(["xxxxxxxxxxxx", "zzzzzzzzzzzz"]);
    });

    it("copies what is only borrowed", async () => {
      const inbox = new Inbox();
      b.subscribe("lent", inbox.handler);
      await b.flush();
      const lent = new Uint8Array(40_000);
      for (const [value, length] of [
        [1, 100],
        [2, 40_000],
        [3, 9_000],
      ] as const) {
        lent.fill(value);
        a.publish("lent", lent.subarray(0, length), undefined, { borrowed: true });
      }
      lent.fill(9);
      const messages = await inbox.received(3);
      expect(messages.map(({ payload }) => [payload[0], payload.at(-1), payload.length])).toEqual([
        [1, 1, 100],
        [2, 2, 40_000],
        [3, 3, 9_000],
      ]);
    });

    it("large and small messages interleave without mixing", async () => {
      const seen: string[] = [];
      b.subscribe("mix.*", ({ subject, payload, reply }) => {
        seen.push(`${subject}:${payload.length}:${checksum(payload)}`);
        if (reply !== undefined) b.publish(reply, bytes("done"));
      });
      await b.flush();
      const expected: string[] = [];
      for (let i = 0; i < 60; i++) {
        const payload = pattern(i % 3 === 0 ? 200_000 + i : i * 37, i);
        expected.push(`mix.${i}:${payload.length}:${checksum(payload)}`);
        a.publish(`mix.${i}`, payload);
      }
      expected.push(`mix.end:0:${checksum(bytes(""))}`);
      await a.request("mix.end", bytes(""), 10_000);
      expect(seen).toEqual(expected);
    });

    it.each(["", " ", "a b", "a.\r\nPUB x 0", "a..b", ".a", "a."])("refuses the subject %j", (subject) => {
      expect(() => a.publish(subject, bytes(""))).toThrow(RallyError);
      expect(() => a.subscribe(subject, () => {})).toThrow(RallyError);
    });

    it("refuses everything after close, which is safe twice and sends what was waiting", async () => {
      const inbox = new Inbox();
      b.subscribe("last", inbox.handler);
      await b.flush();
      a.subscribe("never.answers", () => {});
      await a.flush();
      const pending = failure(a.request("never.answers", bytes(""), 10_000));
      a.publish("last", bytes("words"));
      await a.close();
      await a.close();
      expect(text((await inbox.received(1))[0]?.payload ?? bytes("none"))).toBe("words");
      expect((await pending).code).toBe("closed");
      expect(() => a.publish("last", bytes(""))).toThrow(expect.objectContaining({ code: "closed" }));
      expect(() => a.subscribe("last", () => {})).toThrow(expect.objectContaining({ code: "closed" }));
      expect((await failure(a.request("last", bytes(""), 100))).code).toBe("closed");
      expect((await failure(a.flush())).code).toBe("closed");
    });

    it("reports its status when it closes", async () => {
      const seen: BusStatus[] = [];
      a.onStatus((status) => seen.push(status));
      await a.close();
      expect(seen).toEqual(["closed"]);
    });

    it("survives an outage: subscriptions live again, pending requests fail at once, publishes are dropped", async () => {
      const inbox = new Inbox();
      b.subscribe("after.>", inbox.handler);
      b.subscribe("mute", () => {});
      await b.flush();
      const pending = failure(a.request("mute", bytes(""), 60_000));
      const down = Promise.all([reaches(a, "disconnected"), reaches(b, "disconnected")]);
      await harness.interrupt();
      await down;
      expect((await pending).code).toBe("server-unavailable");
      for (let i = 0; i < 100; i++) a.publish("after.lost", new Uint8Array(100_000));
      expect((await failure(a.request("mute", bytes(""), 50))).code).toBe("server-unavailable");
      const late = b.subscribe("after.late", inbox.handler);
      const up = Promise.all([reaches(a, "connected"), reaches(b, "connected")]);
      await harness.restore();
      await up;
      await b.flush();
      a.publish("after.all", bytes("back"));
      a.publish("after.late", bytes("twice"));
      await inbox.received(3);
      expect(inbox.texts).toEqual(["back", "twice", "twice"]);
      late.unsubscribe();
    });
  });
}

function pattern(size: number, seed: number): Uint8Array {
  const payload = new Uint8Array(size);
  for (let i = 0; i < size; i++) payload[i] = (i * 31 + seed * 17 + (i >> 8)) & 0xff;
  return payload;
}

function checksum(payload: Uint8Array): number {
  let sum = 0;
  for (const byte of payload) sum = (Math.imul(sum, 31) + byte) | 0;
  return sum;
}
