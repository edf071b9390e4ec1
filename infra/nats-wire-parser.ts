import { Buffer } from "node:buffer";
import { headerStatus, headerValue, type NatsMessage } from "./nats-link.ts";

/** What a server says, one call per protocol line. */
export interface WireEvents {
  info(json: string): void;
  /** `message.payload` is a view that the next read overwrites. */
  message(sid: number, message: NatsMessage): void;
  ping(): void;
  pong(): void;
  error(text: string): void;
  /** Bytes that are not the protocol; nothing is read after them. */
  invalid(reason: string): void;
}

const CR = 13;
const LF = 10;
/** Room for reads beside the message that is being received: what follows it comes in the same read. */
const READ_BYTES = 128 * 1024;
/** Longer than any control line; INFO of a large cluster is the longest. */
const MAX_LINE = 1024 * 1024;
/** Beyond the largest `max_payload` that a server can be given (64 MB): room is made for a message before it comes. */
const MAX_MESSAGE = 72 * 1024 * 1024;

/**
 * Reads the NATS client protocol from one buffer that the socket fills in place: a large message is received where it is
 * handed out from, without being put together from pieces. The buffer grows to the largest message and is used over and over.
 */
export class WireParser {
  readonly #events: WireEvents;
  #bytes = new Uint8Array(2 * READ_BYTES);
  /** The same memory, for its text methods. */
  #text = asBuffer(this.#bytes);
  /** Unread bytes: [start, end) */
  #start = 0;
  #end = 0;
  /** Where to go on looking for the end of an incomplete line. */
  #scanned = 0;
  /** Bytes from `start` on that must be there before it is worth looking again. */
  #needed = 1;
  #broken = false;
  #message: { readonly sid: number; readonly head: MessageHead } | undefined;

  constructor(events: WireEvents) {
    this.#events = events;
  }

  /** Where the next bytes go; valid until the next call of `received`. */
  target(): Uint8Array {
    const room = this.#needed - (this.#end - this.#start) + READ_BYTES / 2;
    if (
      this.#bytes.length - this.#end < Math.min(room, READ_BYTES / 2) ||
      this.#start + this.#needed > this.#bytes.length
    ) {
      this.#makeRoom();
    }
    return this.#bytes.subarray(this.#end);
  }

  /** So many bytes have been written to `target`. */
  received(count: number): void {
    if (this.#broken) return;
    this.#end += count;
    while (this.#end - this.#start >= this.#needed && this.#step());
    if (this.#start === this.#end) {
      this.#start = 0;
      this.#end = 0;
      this.#scanned = 0;
    }
  }

  #makeRoom(): void {
    const unread = this.#end - this.#start;
    const size = this.#needed + READ_BYTES;
    if (size > this.#bytes.length) {
      const larger = new Uint8Array(size + READ_BYTES);
      larger.set(this.#bytes.subarray(this.#start, this.#end));
      this.#bytes = larger;
      this.#text = asBuffer(larger);
    } else {
      this.#bytes.copyWithin(0, this.#start, this.#end);
    }
    this.#scanned -= this.#start;
    this.#start = 0;
    this.#end = unread;
  }

  /** One line or one payload; false if it is not all there yet. */
  #step(): boolean {
    if (this.#message !== undefined) return this.#payload(this.#message.sid, this.#message.head);
    const from = Math.max(this.#scanned, this.#start);
    const lf = this.#bytes.subarray(0, this.#end).indexOf(LF, from);
    if (lf === -1) {
      this.#scanned = this.#end;
      this.#needed = this.#end - this.#start + 1;
      return this.#needed <= MAX_LINE ? false : this.#refuse("a line without an end");
    }
    const line = this.#text.toString("utf8", this.#start, this.#bytes[lf - 1] === CR ? lf - 1 : lf);
    this.#start = lf + 1;
    this.#scanned = this.#start;
    this.#needed = 1;
    return this.#line(line);
  }

  #line(line: string): boolean {
    const space = line.indexOf(" ");
    const verb = space === -1 ? line : line.slice(0, space);
    switch (verb) {
      case "MSG":
      case "HMSG": {
        const parts = line.split(" ");
        const sid = Number(parts[2]);
        const head = parseHead(parts, verb === "HMSG");
        if (head === undefined) return this.#refuse(line);
        this.#message = { sid, head };
        this.#needed = head.totalBytes + 2;
        return true;
      }
      case "PING":
        this.#events.ping();
        return true;
      case "PONG":
        this.#events.pong();
        return true;
      case "INFO":
        this.#events.info(line.slice(space + 1));
        return true;
      case "-ERR":
        this.#events.error(line.slice(space + 1).replace(/^'|'$/g, ""));
        return true;
      case "+OK":
        return true;
      default:
        return this.#refuse(line);
    }
  }

  #refuse(found: string): false {
    this.#broken = true;
    this.#events.invalid(`not the NATS protocol: ${JSON.stringify(found.slice(0, 80))}`);
    return false;
  }

  #payload(sid: number, { subject, reply, headerBytes, totalBytes }: MessageHead): boolean {
    const from = this.#start;
    const to = from + totalBytes;
    if (this.#bytes[to] !== CR || this.#bytes[to + 1] !== LF) {
      return this.#refuse(`payload on ${subject} without its end`);
    }
    // Before the handler runs: it may throw.
    this.#start = to + 2;
    this.#scanned = this.#start;
    this.#needed = 1;
    this.#message = undefined;
    const block = headerBytes > 0 ? this.#text.toString("utf8", from, from + headerBytes) : "";
    this.#events.message(sid, new WireMessage(subject, this.#bytes.subarray(from + headerBytes, to), reply, block));
    return true;
  }
}

interface MessageHead {
  readonly subject: string;
  readonly reply: string | undefined;
  readonly headerBytes: number;
  readonly totalBytes: number;
}

/** NaN for what is no number of bytes. */
function countIn(text = ""): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
}

/** `MSG subject sid [reply] bytes`, `HMSG subject sid [reply] headerBytes totalBytes` */
function parseHead(parts: readonly string[], hasHeaders: boolean): MessageHead | undefined {
  const subject = parts[1];
  const withReply = parts.length === (hasHeaders ? 6 : 5);
  if (subject === undefined || (!withReply && parts.length !== (hasHeaders ? 5 : 4))) return undefined;
  const totalBytes = countIn(parts[parts.length - 1]);
  const headerBytes = hasHeaders ? countIn(parts[parts.length - 2]) : 0;
  if (!(totalBytes <= MAX_MESSAGE && headerBytes <= totalBytes)) return undefined;
  // Heartbeats of nats-server 2.9 have an empty reply: two spaces in a row.
  const reply = withReply && parts[3] !== "" ? parts[3] : undefined;
  return { subject, reply, headerBytes, totalBytes };
}

class WireMessage implements NatsMessage {
  readonly subject: string;
  readonly payload: Uint8Array;
  readonly reply: string | undefined;
  readonly status: number;
  readonly noResponders: boolean;
  readonly #block: string;

  constructor(subject: string, payload: Uint8Array, reply: string | undefined, block: string) {
    this.subject = subject;
    this.payload = payload;
    this.reply = reply;
    this.status = block === "" ? 0 : headerStatus(block);
    this.noResponders = this.status === 503 && payload.length === 0;
    this.#block = block;
  }

  header(name: string): string | undefined {
    return this.#block === "" ? undefined : headerValue(this.#block, name);
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
