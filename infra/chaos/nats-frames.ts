/** One unit of the NATS client protocol, with everything needed to pass it on or to tamper with it. */
export interface Frame {
  /** The whole of it: protocol line, and payload where there is one. A copy of its own. */
  readonly bytes: Uint8Array;
  /** Undefined for protocol lines that carry no message. */
  readonly message: MessagePlace | undefined;
}

interface MessagePlace {
  readonly subject: string;
  /** The payload's place if there are none. */
  readonly headersAt: number;
  readonly payloadAt: number;
  readonly payloadBytes: number;
}

const LF = 10;
/** Longer than any control line. */
const MAX_LINE = 1024 * 1024;

/**
 * Cuts one direction of a NATS connection into frames, either direction: PUB and HPUB of clients, MSG and HMSG of servers.
 * Bytes that are not the protocol (TLS, for one) come out as frames without a message, as they came in.
 */
export class FrameSplitter {
  #rest: Uint8Array[] = [];
  #restBytes = 0;
  /** Bytes that must be there before it is worth looking again. */
  #needed = 1;
  #isOpaque = false;

  push(received: Uint8Array): Frame[] {
    // A Buffer's slice would be a view of memory that is the socket's.
    const chunk = new Uint8Array(received.buffer, received.byteOffset, received.length);
    if (this.#isOpaque) return [{ bytes: new Uint8Array(chunk), message: undefined }];
    this.#rest.push(chunk);
    this.#restBytes += chunk.length;
    if (this.#restBytes < this.#needed) {
      this.#rest[this.#rest.length - 1] = new Uint8Array(chunk);
      return [];
    }
    const bytes = joined(this.#rest, this.#restBytes);
    this.#needed = 1;
    const frames: Frame[] = [];
    let at = 0;
    while (at < bytes.length) {
      const end = bytes.indexOf(LF, at);
      if (end === -1) {
        if (bytes.length - at > MAX_LINE) this.#isOpaque = true;
        break;
      }
      const head = parseHead(Buffer.from(bytes.buffer, bytes.byteOffset + at, end - at).toString("latin1"));
      if (head === undefined) {
        frames.push({ bytes: bytes.slice(at, end + 1), message: undefined });
        at = end + 1;
        continue;
      }
      const whole = end + 1 + head.totalBytes + 2;
      if (whole > bytes.length) {
        this.#needed = whole - at;
        break;
      }
      frames.push({
        bytes: bytes.slice(at, whole),
        message: {
          subject: head.subject,
          headersAt: end + 1 - at,
          payloadAt: end + 1 - at + head.headerBytes,
          payloadBytes: head.totalBytes - head.headerBytes,
        },
      });
      at = whole;
    }
    if (this.#isOpaque) {
      frames.push({ bytes: bytes.slice(at), message: undefined });
      at = bytes.length;
    }
    this.#rest = at === bytes.length ? [] : [bytes.slice(at)];
    this.#restBytes = bytes.length - at;
    return frames;
  }
}

/** `PUB|MSG … bytes`, `HPUB|HMSG … headerBytes totalBytes`; undefined for every other line. */
function parseHead(
  line: string,
): { readonly subject: string; readonly headerBytes: number; readonly totalBytes: number } | undefined {
  const parts = line.trim().split(/\s+/);
  const verb = parts[0]?.toUpperCase();
  const subject = parts[1];
  if (subject === undefined || (verb !== "PUB" && verb !== "MSG" && verb !== "HPUB" && verb !== "HMSG"))
    return undefined;
  const totalBytes = Number(parts.at(-1));
  const headerBytes = verb === "HPUB" || verb === "HMSG" ? Number(parts.at(-2)) : 0;
  if (!Number.isInteger(totalBytes) || !(headerBytes >= 0 && headerBytes <= totalBytes)) return undefined;
  return { subject, headerBytes, totalBytes };
}

function joined(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const [first] = chunks;
  if (chunks.length === 1 && first !== undefined) return first;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
