import { spawnSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SharedInbox, SharedOutbox } from "../../infra/shared-memory.ts";

const LIMIT = 10_000_000;
const text = (payload: unknown): string =>
  payload instanceof Uint8Array ? Buffer.from(payload).toString() : `not bytes: ${String(payload)}`;
const bytes = (value: string): Uint8Array => new Uint8Array(Buffer.from(value));

/** As it would arrive over the network. */
function sent(ticket: Uint8Array | undefined): Uint8Array {
  if (ticket === undefined) throw new Error("no room");
  const message = new Uint8Array(ticket.length + 3);
  message.set(ticket, 3);
  return message.subarray(3);
}

describe.skipIf(process.platform !== "linux")("shared memory", () => {
  let now = 0;
  let outbox: SharedOutbox<string>;
  let inbox: SharedInbox;

  beforeEach(() => {
    now = 0;
    const opened = SharedOutbox.open<string>(() => now);
    if (opened === undefined) throw new Error("no /dev/shm");
    outbox = opened;
    inbox = new SharedInbox();
  });
  afterEach(() => {
    inbox.close();
    outbox.close();
  });

  it("hands over payloads of every size", () => {
    for (const size of [0, 1, 4087, 4088, 4089, 65_536, 300_000, 4_000_000]) {
      const payload = Uint8Array.from({ length: size }, (_, i) => (i * 13 + size) & 0xff);
      const taken = inbox.take(sent(outbox.put(payload, "")), LIMIT);
      expect(taken).toHaveLength(size);
      expect(Buffer.compare(Buffer.from(taken), payload)).toBe(0);
    }
  });

  it("keeps what has not been read, in whatever order it is read", () => {
    const tickets = Array.from({ length: 50 }, (_, i) => sent(outbox.put(bytes(`payload ${i}`), "")));
    for (const i of [49, 3, 0, 25]) expect(text(inbox.take(tickets[i] ?? bytes(""), LIMIT))).toBe(`payload ${i}`);
    for (let i = 0; i < 50; i++) outbox.put(bytes(`later ${i}`), "");
    expect(text(inbox.take(tickets[30] ?? bytes(""), LIMIT))).toBe("payload 30");
  });

  it("gives a payload once", () => {
    const ticket = sent(outbox.put(bytes("once"), ""));
    expect(text(inbox.take(ticket, LIMIT))).toBe("once");
    expect(inbox.take(ticket, LIMIT)).toBe("gone");
    const unused = new Uint8Array(ticket);
    new DataView(unused.buffer).setFloat64(48, 0, true);
    expect(inbox.take(unused, LIMIT)).toBe("gone");
  });

  it("uses the same memory again once it was read", () => {
    const first = sent(outbox.put(bytes("1"), ""));
    inbox.take(first, LIMIT);
    const second = sent(outbox.put(bytes("2"), ""));
    // The offset is the third of five doubles after the id.
    expect(second.subarray(32, 40)).toEqual(first.subarray(32, 40));
    expect(inbox.take(first, LIMIT)).toBe("gone");
    expect(text(inbox.take(second, LIMIT))).toBe("2");
  });

  it("is bounded, and takes back what nobody has read for long", () => {
    const large = new Uint8Array(8_000_000);
    const tickets: (Uint8Array | undefined)[] = [];
    for (let i = 0; i < 40; i++) tickets.push(outbox.put(large, ""));
    expect(tickets.filter((ticket) => ticket === undefined).length).toBeGreaterThan(20);
    now = 11_000;
    expect(text(inbox.take(sent(outbox.put(bytes("x".repeat(7_000_000)), "")), LIMIT))).toHaveLength(7_000_000);
    expect(inbox.take(sent(tickets[0]), LIMIT)).toBe("gone");
  });

  it("gives a payload that could not be read back to its sender", () => {
    const ticket = sent(outbox.put(bytes("back"), "about it"));
    const found = outbox.takeBack(ticket);
    expect(text(found?.payload)).toBe("back");
    expect(found?.about).toBe("about it");
    expect(inbox.take(ticket, LIMIT)).toBe("gone");
    const foreign = sent(outbox.put(bytes("back"), "about it")).slice();
    foreign[0] = (foreign[0] ?? 0) ^ 1;
    expect(outbox.takeBack(foreign)).toBeUndefined();
  });

  it("refuses tickets that are none, too large, or name somebody else's file", () => {
    const ticket = sent(outbox.put(bytes("x"), ""));
    const changed = (at: number, value: number): Uint8Array => {
      const copy = new Uint8Array(ticket);
      new DataView(copy.buffer).setFloat64(at, value, true);
      return copy;
    };
    expect(inbox.take(ticket.subarray(1), LIMIT)).toBe("gone");
    expect(inbox.take(new Uint8Array(0), LIMIT)).toBe("gone");
    for (const bad of [Number.NaN, -1, 0.5, Infinity, 1e300]) expect(inbox.take(changed(32, bad), LIMIT)).toBe("gone");
    expect(inbox.take(changed(40, LIMIT + 1), LIMIT)).toBe("gone");
    expect(inbox.take(changed(32, 1e12), LIMIT)).toBe("gone");
    // No such process.
    expect(new SharedInbox().take(changed(16, 999_999_999), LIMIT)).toBe("unreachable");
    const file = path.join(os.tmpdir(), `rally-shared-${process.pid}`);
    const header = new Uint8Array(64).fill(7);
    writeFileSync(file, header);
    const fd = openSync(file, "r+");
    try {
      const forged = changed(24, fd);
      forged.set(header.subarray(0, 16));
      expect(inbox.take(forged, LIMIT)).toBe("unreachable");
      expect(new Uint8Array(readFileSync(file))).toEqual(header);
    } finally {
      closeSync(fd);
      unlinkSync(file);
    }
    expect(text(inbox.take(ticket, LIMIT))).toBe("x");
  });

  it("leaves nothing behind when its process is killed", () => {
    const before = readdirSync("/dev/shm").filter((name) => name.startsWith("rally-"));
    const module_ = path.resolve("dist/infra/shared-memory.js");
    const script = `
      const { SharedOutbox } = await import(${JSON.stringify(module_)});
      if (SharedOutbox.open().put(new Uint8Array(100_000), 0) === undefined) process.exit(1);
      process.kill(process.pid, "SIGKILL");`;
    const { signal } = spawnSync(process.execPath, ["--input-type=module", "-e", script]);
    expect(signal).toBe("SIGKILL");
    expect(readdirSync("/dev/shm").filter((name) => name.startsWith("rally-"))).toEqual(before);
  });
});
