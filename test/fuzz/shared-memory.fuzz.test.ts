import fs from "node:fs";
import { crc32 } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { BusMessage } from "../../infra/bus.ts";
import type { NatsLink, NatsMessage } from "../../infra/nats-link.ts";
import { SharedPayloads } from "../../infra/nats-shared.ts";
import { haveAddon } from "../support/addon.ts";
import { FUZZ_SEED, FUZZ_TIMEOUT_MS, MemoryWatch, NUM_FUZZ_MESSAGES } from "../support/fuzz-run.ts";
import { FuzzRandom, mutateBytes } from "../support/mutations.ts";

const MAX_PAYLOAD = 2 ** 20;
/** A doorbell: its beginning, the ticket, four bytes of CRC-32. */
const DOORBELL_START = 8;
const CHECK_BYTES = 4;
const ID_BYTES = 16;
const PAYLOAD_BYTES = 100_000;
/** Mutations that are no doorbell any more are shorter than this. */
const LONGEST_OTHER = 300;

interface Published {
  readonly subject: string;
  readonly payload: Uint8Array;
}

/** A connection that goes nowhere: keeps what is published, and whoever subscribes. */
class LooseLink implements NatsLink {
  readonly serverVersion = "2.9.10";
  readonly maxPayload = MAX_PAYLOAD;
  readonly connected = true;
  readonly published: Published[] = [];
  readonly handlers = new Map<string, (message: NatsMessage) => void>();

  publish(subject: string, payload: Uint8Array): void {
    this.published.push({ subject, payload });
  }
  subscribe(subject: string, handler: (message: NatsMessage) => void) {
    this.handlers.set(subject, handler);
    return { unsubscribe: () => undefined };
  }
  onStatus() {
    return { unsubscribe: () => undefined };
  }
  async flush(): Promise<void> {}
  async close(): Promise<void> {}
}

const messageOf = (payload: Uint8Array): NatsMessage => ({
  subject: "rally.d.ffn.0",
  payload,
  reply: undefined,
  noResponders: false,
  status: 0,
  header: () => undefined,
});

const ways = [{ way: "copied" }, { way: "mapped" }].slice(0, (await haveAddon()) ? 2 : 1);

describe.skipIf(process.platform !== "linux").each(ways)("shared memory, $way, hostile tickets", ({ way }) => {
  let ours: LooseLink;
  let theirs: LooseLink;
  let sender: SharedPayloads;
  let receiver: SharedPayloads;
  const received: Uint8Array[] = [];
  let shard = 0;
  let receive: (message: NatsMessage) => void;

  beforeEach(() => {
    ours = new LooseLink();
    theirs = new LooseLink();
    const opened = [ours, theirs].map((link) => SharedPayloads.open(link, way === "mapped" || "copied"));
    if (opened[0] === undefined || opened[1] === undefined) throw new Error("no /dev/shm");
    [sender, receiver] = opened;
    received.length = 0;
    receive = receiver.receiver(({ payload }: BusMessage) => void received.push(payload));
  });
  afterEach(() => {
    sender.close();
    receiver.close();
  });

  /** A doorbell as the network would bring it. */
  function ring(): Uint8Array {
    const payload = new Uint8Array(PAYLOAD_BYTES).fill(7);
    // What was returned once goes the ordinary way from then on: the next subject.
    while (!sender.publish(`rally.d.ffn.${shard}`, payload, undefined, undefined))
      if (++shard > 10_000) throw new Error("not shared");
    const doorbell = ours.published.pop();
    if (doorbell === undefined) throw new Error("no doorbell");
    return Uint8Array.from(doorbell.payload);
  }

  it(
    `${NUM_FUZZ_MESSAGES} mutated, forged and random doorbells, seed ${FUZZ_SEED}`,
    () => {
      const random = new FuzzRandom(FUZZ_SEED);
      const memory = new MemoryWatch(NUM_FUZZ_MESSAGES);
      const secret = secretFiles();
      const openBefore = fs.readdirSync("/proc/self/fd").length;
      let numReturned = 0;
      let numTaken = 0;
      try {
        for (let number = 0; number < NUM_FUZZ_MESSAGES; number++) {
          memory.at(number);
          const good = ring();
          receive(messageOf(forged(good, random, secret.fds)));
          for (const payload of received.splice(0)) {
            // What is no doorbell is an ordinary payload; through shared memory comes nothing but what was put there.
            if (payload.length <= LONGEST_OTHER) continue;
            numTaken++;
            if (payload.length > MAX_PAYLOAD || payload[0] !== 7) throw new Error(`message ${number}: foreign memory`);
          }
          numReturned += theirs.published.splice(0).length;
          // And what comes back to the sender, as if nobody could read it.
          if (number % 7 === 0) {
            for (const [subject, handler] of ours.handlers) {
              if (subject.startsWith("_INBOX.")) handler(messageOf(returned(good, number, random)));
            }
            ours.published.length = 0;
          }
          receive(messageOf(good));
          received.length = 0;
        }
      } finally {
        secret.close();
      }
      expect(memory.growth("shared memory")).toBeLessThan(8);
      expect(numReturned).toBeGreaterThan(NUM_FUZZ_MESSAGES / 20);
      expect(numTaken).toBeGreaterThan(0);
      expect(fs.readdirSync("/proc/self/fd").length).toBeLessThan(openBefore + 40);
      // Other connections work as before.
      receive(messageOf(ring()));
      expect(received).toHaveLength(1);
      expect(received[0]).toHaveLength(PAYLOAD_BYTES);
    },
    FUZZ_TIMEOUT_MS,
  );
});

/** A ticket that seems to come back; mostly not a true one, for those have their effect. */
function returned(good: Uint8Array, number: number, random: FuzzRandom): Uint8Array {
  const ticket = mutateBytes(good.subarray(DOORBELL_START, -CHECK_BYTES), random);
  if (number % 1001 !== 0 && ticket.length > 0) ticket[0] = (good[DOORBELL_START] ?? 0) ^ 1;
  return ticket;
}

/** A doorbell that is changed anywhere, or that names what an attacker would like to be read or written. */
function forged(good: Uint8Array, random: FuzzRandom, fds: readonly number[]): Uint8Array {
  if (random.below(3) === 0) return mutateBytes(good, random);
  const copy = Uint8Array.from(good);
  const view = new DataView(copy.buffer, DOORBELL_START + ID_BYTES, 40);
  const numbers = [0, 1, 8, 16, 4096, 4097, 2 ** 31, 2 ** 32, 2 ** 53 - 1, -1, 0.5, Number.NaN, MAX_PAYLOAD, 1e300];
  const field = random.below(5);
  const value = field === 1 ? random.pick([...fds, ...numbers]) : random.pick([...numbers, process.pid, process.ppid]);
  view.setFloat64(field * 8, value, true);
  // Another id: else the file is open already and nothing else in the ticket is looked at.
  if (field < 2 || random.below(4) === 0) {
    const id = random.pick([new Uint8Array(ID_BYTES), new Uint8Array(ID_BYTES).fill(0x53), random.bytes(ID_BYTES)]);
    copy.set(id, DOORBELL_START);
  }
  // Whoever forges one knows how to sum it up.
  const check = crc32(copy.subarray(DOORBELL_START, -CHECK_BYTES));
  if (random.below(10) > 0) new DataView(copy.buffer, copy.length - CHECK_BYTES).setUint32(0, check);
  return copy;
}

/** Files of this process that a ticket could name: one with a name, one without, and what is no file at all. */
function secretFiles() {
  const folder = fs.mkdtempSync("/dev/shm/rally-test-");
  const named = fs.openSync(`${folder}/named`, "wx+");
  const nameless = fs.openSync(`${folder}/nameless`, "wx+");
  fs.unlinkSync(`${folder}/nameless`);
  const contents = new Uint8Array(200_000).fill(0x53);
  for (const fd of [named, nameless]) fs.writeSync(fd, contents, 0, contents.length, 0);
  const directory = fs.openSync(folder, "r");
  return {
    fds: [named, nameless, directory, 0, 1, 2],
    close: () => {
      for (const fd of [named, nameless]) {
        const found = new Uint8Array(contents.length);
        fs.readSync(fd, found, 0, found.length, 0);
        expect(Buffer.compare(found, contents)).toBe(0);
      }
      for (const fd of [named, nameless, directory]) fs.closeSync(fd);
      fs.rmSync(folder, { recursive: true });
    },
  };
}
