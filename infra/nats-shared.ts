import { crc32 } from "node:zlib";
import type { BusHandler, PublishOptions } from "./bus.ts";
import type { NatsLink, NatsMessage } from "./nats-link.ts";
import { SharedMaps } from "./native/shared-map.ts";
import { HeapScratch, type ScratchMemory } from "./scratch-memory.ts";
import { SharedInbox } from "./shared-inbox.ts";
import { SharedOutbox } from "./shared-outbox.ts";
import { ID_BYTES, TICKET_BYTES } from "./shared-ticket.ts";

/** Smaller ones cost the server less than the extra steps cost us (measured by test/bench/hop). */
const SHARE_FROM = 8 * 1024;
/** A message that starts so and is just so long is a doorbell: this, a ticket, the CRC-32 of it. In msgpack, 0xc1 starts nothing. */
const DOORBELL = Uint8Array.from([0xc1, ...Buffer.from("shared\n")]);
const CHECK_AT = DOORBELL.length + TICKET_BYTES;
const DOORBELL_BYTES = CHECK_AT + 4;

interface Sent {
  readonly subject: string;
  readonly reply: string | undefined;
  readonly seal: PublishOptions["seal"];
}

/**
 * Payloads through shared memory, the NATS message as the doorbell. A receiver that cannot reach the memory (another host,
 * another container) sends the ticket back; then the payload goes as it is, and so does everything on that subject from then on.
 */
export class SharedPayloads {
  readonly #link: NatsLink;
  /** Undefined where nothing is shared: a doorbell from someone who does is then sent back unread. */
  readonly #outbox: SharedOutbox<Sent> | undefined;
  readonly #inbox: SharedInbox;
  readonly #notShared = new Set<string>();

  private constructor(link: NatsLink, outbox: SharedOutbox<Sent> | undefined, maps: SharedMaps | "none") {
    this.#link = link;
    this.#outbox = outbox;
    this.#inbox = new SharedInbox(maps);
    if (outbox !== undefined) link.subscribe(returnSubject(outbox.id), ({ payload }) => this.#returned(payload));
  }

  /** `shares`: whether others of this host may be there; "copied": without mapping, which takes the native addon. */
  static open(link: NatsLink, shares: boolean | "copied" = true): SharedPayloads {
    const maps = shares === true ? (SharedMaps.find() ?? "none") : "none";
    return new SharedPayloads(link, shares === false ? undefined : SharedOutbox.open<Sent>(undefined, maps), maps);
  }

  /** Large payloads are made where their receivers read them. */
  scratch(): ScratchMemory {
    const heap = new HeapScratch();
    const outbox = this.#outbox;
    if (outbox === undefined) return heap;
    let held: Uint8Array | undefined;
    return {
      take(numBytes) {
        if (held !== undefined) outbox.letGo(held);
        held = numBytes < SHARE_FROM ? undefined : outbox.hold(numBytes);
        return held ?? heap.take(numBytes);
      },
    };
  }

  /** False if it has to be sent the ordinary way. */
  publish(subject: string, payload: Uint8Array, reply: string | undefined, seal: PublishOptions["seal"]): boolean {
    if (this.#outbox === undefined || payload.length < SHARE_FROM) return false;
    if (this.#notShared.has(subject) || !this.#link.connected) return false;
    const ticket = this.#outbox.put(payload, { subject, reply, seal });
    if (ticket === undefined) return false;
    this.#link.publish(subject, doorbellOf(ticket), reply);
    return true;
  }

  receiver(handler: BusHandler): (message: NatsMessage) => void {
    return (message) => {
      if (!isDoorbell(message.payload)) {
        handler(message);
        return;
      }
      const ticket = message.payload.subarray(DOORBELL.length, CHECK_AT);
      // A damaged ticket may name another payload.
      if (checkIn(message.payload) !== crc32(ticket)) return;
      const payload = this.#outbox === undefined ? "unreachable" : this.#inbox.take(ticket, this.#link.maxPayload);
      if (payload === "gone") return;
      if (payload === "unreachable") {
        this.#link.publish(returnSubject(ticket.subarray(0, ID_BYTES)), new Uint8Array(ticket));
        return;
      }
      const { subject, reply } = message;
      try {
        handler({ subject, payload, reply, noResponders: false, isShared: true });
      } finally {
        this.#inbox.release();
      }
    };
  }

  close(): void {
    this.#inbox.close();
    this.#outbox?.close();
  }

  #returned(ticket: Uint8Array): void {
    const found = this.#outbox?.takeBack(ticket);
    if (found === undefined) return;
    const { subject, reply, seal } = found.about;
    this.#notShared.add(subject);
    seal?.(found.payload);
    this.#link.publish(subject, found.payload, reply);
  }
}

function returnSubject(id: Uint8Array): string {
  return `_INBOX.${Buffer.from(id).toString("hex")}`;
}

function doorbellOf(ticket: Uint8Array): Uint8Array {
  const doorbell = new Uint8Array(DOORBELL_BYTES);
  doorbell.set(DOORBELL);
  doorbell.set(ticket, DOORBELL.length);
  new DataView(doorbell.buffer).setUint32(CHECK_AT, crc32(ticket));
  return doorbell;
}

function checkIn({ buffer, byteOffset }: Uint8Array): number {
  return new DataView(buffer, byteOffset + CHECK_AT, 4).getUint32(0);
}

function isDoorbell(payload: Uint8Array): boolean {
  return payload.length === DOORBELL_BYTES && DOORBELL.every((byte, i) => payload[i] === byte);
}
