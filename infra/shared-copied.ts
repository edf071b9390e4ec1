import { randomBytes } from "node:crypto";
import fs from "node:fs";
import type { ScratchMemory } from "./scratch-memory.ts";
import {
  agrees,
  type Entry,
  entryAt,
  FILE_BYTES,
  LENGTH,
  isInside,
  OFFSET,
  READER,
  type SharedReader,
  type SharedWriter,
  USE,
} from "./shared-file.ts";
import type { Ticket } from "./shared-ticket.ts";

const FOLDER = "/dev/shm";

/** Entries read and written at offsets, as any process can. */
class Entries {
  readonly #fd: number;
  readonly #words = new Int32Array(4);
  readonly #bytes = new Uint8Array(this.#words.buffer);

  constructor(fd: number) {
    this.#fd = fd;
  }

  read(slot: number): Int32Array {
    this.#words.fill(0);
    fs.readSync(this.#fd, this.#bytes, 0, this.#bytes.length, entryAt(slot));
    return this.#words;
  }

  write(slot: number, { use, offset, length }: Entry): void {
    this.#words[USE] = use;
    this.#words[READER] = 0;
    this.#words[OFFSET] = offset;
    this.#words[LENGTH] = length;
    fs.writeSync(this.#fd, this.#bytes, 0, this.#bytes.length, entryAt(slot));
  }

  /** The use, or with a length of 8 the reader too. */
  zero(slot: number, length: 4 | 8): void {
    this.#words.fill(0);
    fs.writeSync(this.#fd, this.#bytes, 0, length, entryAt(slot));
  }
}

/** Copies payloads into a file of the memory file system: one system call each, and nothing that Node.js does not have. */
export class CopyingWriter implements SharedWriter {
  readonly fd: number;
  readonly isMapped = false;
  readonly #entries: Entries;

  private constructor(fd: number) {
    this.fd = fd;
    this.#entries = new Entries(fd);
  }

  /** Throws where there is no memory file system. The file has no name, so nothing is left behind however its processes end. */
  static create(): CopyingWriter {
    const file = `${FOLDER}/rally-${randomBytes(8).toString("hex")}`;
    const fd = fs.openSync(file, "wx+", 0o600);
    fs.unlinkSync(file);
    fs.ftruncateSync(fd, FILE_BYTES);
    return new CopyingWriter(fd);
  }

  place(): undefined {}

  offsetOf(): undefined {}

  write(offset: number, payload: Uint8Array): boolean {
    try {
      return fs.writeSync(this.fd, payload, 0, payload.length, offset) === payload.length;
    } catch {
      return false;
    }
  }

  read(offset: number, length: number): Uint8Array {
    const payload = new Uint8Array(length);
    fs.readSync(this.fd, payload, 0, length, offset);
    return payload;
  }

  publish(slot: number, entry: Entry): void {
    this.#entries.write(slot, entry);
  }

  isFree(slot: number): boolean {
    const entry = this.#entries.read(slot);
    return entry[USE] === 0 && entry[READER] === 0;
  }

  withdraw(slot: number): number {
    this.#entries.zero(slot, 4);
    return this.#entries.read(slot)[READER] ?? 0;
  }

  clear(slot: number): void {
    this.#entries.zero(slot, 8);
  }

  close(): void {
    fs.closeSync(this.fd);
  }
}

/** Copies payloads out. Whether that was what the ticket is for is seen afterwards: who writes there takes the entry away first. */
export class CopyingReader implements SharedReader {
  readonly #fd: number;
  readonly #entries: Entries;
  readonly #scratch: ScratchMemory;

  /** `scratch` may serve several of which one takes at a time. */
  constructor(fd: number, scratch: ScratchMemory) {
    this.#fd = fd;
    this.#entries = new Entries(fd);
    this.#scratch = scratch;
  }

  take(ticket: Ticket): Uint8Array | undefined {
    if (!isInside(ticket)) return undefined;
    const payload = this.#scratch.take(ticket.length);
    if (fs.readSync(this.#fd, payload, 0, ticket.length, ticket.offset) !== ticket.length) return undefined;
    const [use = 0, reader = 0, offset = 0, length = 0] = this.#entries.read(ticket.slot);
    if (reader !== 0 || !agrees({ use, offset, length }, ticket)) return undefined;
    this.#entries.zero(ticket.slot, 4);
    return payload;
  }

  release(): void {}

  close(): void {
    fs.closeSync(this.#fd);
  }
}
