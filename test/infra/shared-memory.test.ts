import { spawnSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, unlinkSync, writeFileSync, writeSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SharedMaps } from "../../infra/native/shared-map.ts";
import { entryAt, FILE_BYTES, PAGE, PAYLOADS_AT } from "../../infra/shared-file.ts";
import { SharedInbox } from "../../infra/shared-inbox.ts";
import { SharedOutbox } from "../../infra/shared-outbox.ts";
import { NUM_SLOTS } from "../../infra/shared-ticket.ts";
import { TestRandom } from "../support/random-values.ts";
import { haveAddon } from "../support/addon.ts";

const LIMIT = 10_000_000;
/** All the memory that there is for payloads. */
const ALL = Math.floor((FILE_BYTES - PAYLOADS_AT) / PAGE) * PAGE;
const maps = (await haveAddon()) ? (SharedMaps.find() ?? "none") : "none";
/** Whoever maps and whoever copies understand each other. */
const PAIRS = [
  { name: "copied and copied", writes: "none", reads: "none" },
  { name: "mapped and mapped", writes: maps, reads: maps },
  { name: "mapped and copied", writes: maps, reads: "none" },
  { name: "copied and mapped", writes: "none", reads: maps },
] as const;
const text = (payload: unknown): string =>
  payload instanceof Uint8Array ? Buffer.from(payload).toString() : `not bytes: ${String(payload)}`;
const bytes = (value: string): Uint8Array => new Uint8Array(Buffer.from(value));
const isAll = (payload: unknown, value: number): boolean =>
  payload instanceof Uint8Array && payload.every((byte) => byte === value);

/** As it would arrive over the network. */
function sent(ticket: Uint8Array | undefined): Uint8Array {
  if (ticket === undefined) throw new Error("no room");
  const message = new Uint8Array(ticket.length + 3);
  message.set(ticket, 3);
  return message.subarray(3);
}

describe
  .skipIf(process.platform !== "linux")
  .each(PAIRS.filter(({ name }) => maps !== "none" || name === "copied and copied"))(
  "shared memory, $name",
  ({ writes, reads }) => {
    let now = 0;
    let outbox: SharedOutbox<string>;
    let inbox: SharedInbox;

    beforeEach(() => {
      now = 0;
      const opened = SharedOutbox.open<string>(() => now, writes);
      if (opened === undefined) throw new Error("no /dev/shm");
      outbox = opened;
      inbox = new SharedInbox(reads);
    });
    afterEach(() => {
      inbox.close();
      outbox.close();
    });

    const hasRoom = (numBytes: number): boolean => {
      const held = outbox.hold(numBytes);
      if (held !== undefined) outbox.letGo(held);
      return held !== undefined;
    };

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
      inbox.release();
      const second = sent(outbox.put(bytes("2"), ""));
      // Where it lies is the third of five doubles after the id.
      expect(second.subarray(32, 40)).toEqual(first.subarray(32, 40));
      expect(inbox.take(first, LIMIT)).toBe("gone");
      expect(text(inbox.take(second, LIMIT))).toBe("2");
    });

    it("is bounded, and takes back what nobody has read for long", () => {
      const large = new Uint8Array(8_000_000);
      const tickets: (Uint8Array | undefined)[] = [];
      for (let i = 0; i < 40; i++) tickets.push(outbox.put(large, ""));
      expect(tickets.filter((ticket) => ticket === undefined)).toHaveLength(24);
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

    it.skipIf(writes === "none")("shares what was made in its memory", () => {
      const tickets = [100_000, 20].map((length) => {
        const held = outbox.hold(100_000);
        if (held === undefined) throw new Error("no room");
        held.fill(length & 0xff);
        const ticket = sent(outbox.put(held.subarray(0, length), ""));
        outbox.letGo(held);
        return ticket;
      });
      expect(isAll(inbox.take(tickets[0] ?? bytes(""), LIMIT), 100_000 & 0xff)).toBe(true);
      expect(inbox.take(tickets[1] ?? bytes(""), LIMIT)).toEqual(new Uint8Array(20).fill(20));
      inbox.release();
      // All memory is there again.
      expect(hasRoom(ALL)).toBe(true);
    });

    it.skipIf(writes === "none")("gives what was made in its memory to several readers", () => {
      const held = outbox.hold(70_000_000);
      if (held === undefined) throw new Error("no room");
      held.fill(5);
      const tickets = Array.from({ length: 8 }, () => sent(outbox.put(held, "")));
      const inboxes = tickets.map(() => new SharedInbox(reads));
      for (const [i, each] of inboxes.entries()) {
        const taken = each.take(tickets[i] ?? bytes(""), ALL);
        expect([taken.length, taken[0], taken.at(-1)]).toEqual([70_000_000, 5, 5]);
        if (i === 4) outbox.letGo(held);
        if (i < 7) expect(hasRoom(70_000_000)).toBe(false);
        each.release();
      }
      for (const each of inboxes) each.close();
      expect(hasRoom(70_000_000)).toBe(true);
    });

    it.skipIf(writes === "none")("has what is held no more again", () => {
      for (let i = 0; i < 100; i++) {
        const held = outbox.hold(100_000_000);
        expect(held?.length).toBe(100_000_000);
        expect(outbox.put(new Uint8Array(100_000_000), "")).toBeUndefined();
        if (held !== undefined) outbox.letGo(held);
      }
      expect(hasRoom(2 * ALL)).toBe(false);
      // Memory of others.
      outbox.letGo(new Uint8Array(1000));
      expect(hasRoom(ALL)).toBe(true);
    });

    it.skipIf(writes !== "none")("holds nothing where it cannot be mapped", () => {
      expect(hasRoom(1000)).toBe(false);
    });

    it("leaves what was taken as it is until it is released, however long that takes", () => {
      const payload = new Uint8Array(1_000_000).fill(1);
      const taken = inbox.take(sent(outbox.put(payload, "")), LIMIT);
      now = 3_600_000;
      for (let i = 2; i < 200; i++) outbox.put(payload.fill(i), "");
      expect(isAll(taken, 1)).toBe(true);
      inbox.release();
      now = 7_200_000;
      // As many as there is room for.
      for (let i = 0; i < 133; i++) expect(outbox.put(payload, "")).toBeDefined();
      expect(outbox.put(payload, "")).toBeUndefined();
    });

    it("keeps every payload whole while its memory goes round many times", () => {
      const random = new TestRandom(3);
      const waiting: { ticket: Uint8Array; seed: number; length: number }[] = [];
      const fill = (target: Uint8Array, seed: number): Uint8Array => {
        for (let i = 0; i < target.length; i += 512) target[i] = (seed + i / 512) & 0xff;
        return target;
      };
      let numRefused = 0;
      for (let seed = 0; seed < 1500; seed++) {
        const length = 1 + random.below(random.below(5) === 0 ? 8_000_000 : 50_000);
        const held = random.below(2) === 0 ? outbox.hold(length + random.below(50_000)) : undefined;
        const payload = held?.subarray(0, length) ?? new Uint8Array(length);
        const ticket = outbox.put(fill(payload, seed), "");
        if (held !== undefined) outbox.letGo(held);
        if (ticket === undefined) numRefused++;
        else waiting.push({ ticket: sent(ticket), seed, length });
        const isFilling = Math.floor(seed / 250) % 2 === 0;
        const numReads = ticket === undefined ? 20 : random.below(isFilling ? 2 : 6);
        for (const next of Array.from({ length: numReads }, () => waiting.splice(random.below(waiting.length), 1)[0])) {
          if (next === undefined) break;
          const taken = inbox.take(next.ticket, LIMIT);
          if (!(taken instanceof Uint8Array)) throw new Error(`payload ${next.seed}: ${taken}`);
          expect(taken.length).toBe(next.length);
          for (let i = 0; i < taken.length; i += 512) {
            if (taken[i] !== ((next.seed + i / 512) & 0xff)) throw new Error(`payload ${next.seed}, byte ${i}`);
          }
        }
      }
      expect(numRefused).toBeGreaterThan(0);
    });

    it("a ticket that came twice is read once at a time", () => {
      const other = new SharedInbox(reads);
      const ticket = sent(outbox.put(bytes("once"), ""));
      const taken = inbox.take(ticket, LIMIT);
      expect(other.take(ticket, LIMIT)).toBe("gone");
      expect(text(taken)).toBe("once");
      inbox.release();
      expect(other.take(ticket, LIMIT)).toBe("gone");
      other.close();
    });

    it("reads nothing but payloads, whatever is in the table", () => {
      const random = new TestRandom(11);
      const view = new DataView(sent(outbox.put(bytes("secret".repeat(1000)), "")).slice().buffer);
      const fd = openSync(`/proc/${view.getFloat64(16, true)}/fd/${view.getFloat64(24, true)}`, "r+");
      const numbers = [0, 1, -1, 4096, FILE_BYTES, FILE_BYTES - 1, PAYLOADS_AT - 1, 2 ** 31 - 1, -(2 ** 31)];
      let numTaken = 0;
      for (let i = 0; i < 2000; i++) {
        const ticket = sent(outbox.put(bytes("x".repeat(100)), ""));
        const slot = new DataView(ticket.buffer, ticket.byteOffset).getFloat64(32, true) % NUM_SLOTS;
        const entry = new Int32Array(1).fill(random.pick([...numbers, random.below(2 ** 27)]));
        writeSync(fd, new Uint8Array(entry.buffer), 0, 4, entryAt(slot) + 4 * random.below(4));
        const forged = new Uint8Array(ticket);
        if (random.below(2) === 0) {
          new DataView(forged.buffer).setFloat64(16 + 8 * (2 + random.below(3)), random.pick(numbers), true);
        }
        const taken = inbox.take(forged, 2 ** 40);
        // It may be another payload, but neither the table nor what is outside the file.
        if (taken instanceof Uint8Array) {
          numTaken++;
          if (!/^[xsecrt\0]*$/.test(text(taken)))
            throw new Error(`ticket ${i}: ${taken.length} bytes of something else`);
        }
        inbox.release();
        now += 20_000;
      }
      expect(numTaken).toBeGreaterThan(0);
      closeSync(fd);
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
      for (const bad of [Number.NaN, -1, 0.5, Infinity, 1e300])
        expect(inbox.take(changed(32, bad), LIMIT)).toBe("gone");
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
      const module_ = path.resolve("dist/infra/shared-outbox.js");
      const script = `
      const { SharedOutbox } = await import(${JSON.stringify(module_)});
      const outbox = SharedOutbox.open(undefined, ${writes === "none" ? '"none"' : "undefined"});
      if (outbox.put(new Uint8Array(100_000), 0) === undefined) process.exit(1);
      process.kill(process.pid, "SIGKILL");`;
      const { signal } = spawnSync(process.execPath, ["--input-type=module", "-e", script]);
      expect(signal).toBe("SIGKILL");
      expect(readdirSync("/dev/shm").filter((name) => name.startsWith("rally-"))).toEqual(before);
    });
  },
);
