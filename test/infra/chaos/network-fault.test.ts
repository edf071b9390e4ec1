import { describe, expect, it } from "vitest";
import { FrameSplitter } from "../../../infra/chaos/nats-frames.ts";
import { fateOf, type NetworkFault } from "../../../infra/chaos/network-fault.ts";
import { SeededRandom } from "../../../infra/chaos/seeded.ts";

const [message, ping] = new FrameSplitter().push(Buffer.from("PUB a.b 5\r\nhello\r\nPING\r\n"));
if (message === undefined || ping === undefined) throw new Error("two frames");
const anything = () => true;
const random = new SeededRandom(1, "fate");

const always = (
  kind: "drop" | "duplicate" | "corrupt",
  concerns: (subject: string) => boolean = anything,
): NetworkFault => ({
  kind,
  direction: undefined,
  probability: 1,
  concerns,
});

describe("fateOf", () => {
  it("leaves everything as it is without a fault", () => {
    expect(fateOf(message, [], random)).toEqual({
      copies: [message.bytes],
      delayMs: 0,
      bytesPerSecond: Infinity,
      asideMs: undefined,
    });
  });

  it("loses and doubles messages, never protocol lines", () => {
    expect(fateOf(message, [always("drop")], random).copies).toEqual([]);
    expect(fateOf(message, [always("duplicate")], random).copies).toEqual([message.bytes, message.bytes]);
    expect(fateOf(ping, [always("drop"), always("duplicate"), always("corrupt")], random).copies).toEqual([ping.bytes]);
  });

  it("changes one byte of the payload and nothing of the protocol", () => {
    const seen = new Set<string>();
    for (let i = 0; i < 50; i++) {
      const [changed] = fateOf(message, [always("corrupt")], random).copies;
      const text = Buffer.from(changed ?? []).toString("latin1");
      expect(text).toMatch(/^PUB a\.b 5\r\n[^]{5}\r\n$/);
      const differing = [...(changed ?? [])].filter((byte, at) => byte !== message.bytes[at]);
      expect(differing).toHaveLength(1);
      seen.add(text);
    }
    expect(seen.size).toBeGreaterThan(20);
    expect(Buffer.from(message.bytes).toString()).toBe("PUB a.b 5\r\nhello\r\n");
  });

  it("changes a byte of headers as readily as one of the payload", () => {
    const [withHeaders] = new FrameSplitter().push(Buffer.from("HPUB a.b 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"));
    if (withHeaders === undefined) throw new Error("no frame");
    const places = new Set<number>();
    for (let i = 0; i < 300; i++) {
      const [changed] = fateOf(withHeaders, [always("corrupt")], random).copies;
      places.add([...(changed ?? [])].findIndex((byte, at) => byte !== withHeaders.bytes[at]));
    }
    // From behind the protocol line to the payload's last byte.
    expect([...places].sort((a, b) => a - b)).toEqual(Array.from({ length: 17 }, (_, i) => 16 + i));
  });

  it("strikes as often as it should, and only where it should", () => {
    const fault: NetworkFault = { kind: "drop", direction: undefined, probability: 0.2, concerns: anything };
    const lost = Array.from({ length: 2_000 }, () => fateOf(message, [fault], random)).filter(
      ({ copies }) => copies.length === 0,
    );
    expect(lost.length / 2_000).toBeCloseTo(0.2, 1);
    expect(fateOf(message, [always("drop", (subject) => subject === "x")], random).copies).toHaveLength(1);
  });

  it("adds delays up and takes the tightest throttle", () => {
    const faults: NetworkFault[] = [
      { kind: "delay", direction: undefined, delayMs: 30 },
      { kind: "delay", direction: undefined, delayMs: 12 },
      { kind: "throttle", direction: undefined, bytesPerSecond: 1000 },
      { kind: "throttle", direction: undefined, bytesPerSecond: 10 },
    ];
    expect(fateOf(ping, faults, random)).toMatchObject({ delayMs: 42, bytesPerSecond: 10 });
  });
});
