import fs from "node:fs";
import type { SharedMap, SharedMaps } from "./native/shared-map.ts";
import {
  agrees,
  type Entry,
  entryAt,
  FILE_BYTES,
  LENGTH,
  isInside,
  OFFSET,
  PAYLOADS_AT,
  READER,
  type SharedReader,
  type SharedWriter,
  USE,
} from "./shared-file.ts";
import type { Ticket } from "./shared-ticket.ts";

/** Memory is taken in such steps: a fault while it is written to would kill the process where there is none. */
const GROWTH_BYTES = 1024 * 1024;

const wordsOf = (map: SharedMap): Int32Array => new Int32Array(map.buffer, 0, PAYLOADS_AT >> 2);
const wordAt = (slot: number): number => entryAt(slot) >> 2;

/** Payloads are written where their readers read them. */
export class MappedWriter implements SharedWriter {
  readonly fd: number;
  readonly isMapped = true;
  readonly #maps: SharedMaps;
  readonly #map: SharedMap;
  readonly #words: Int32Array;
  #allocated = 0;

  private constructor(maps: SharedMaps, fd: number, map: SharedMap) {
    this.#maps = maps;
    this.fd = fd;
    this.#map = map;
    this.#words = wordsOf(map);
  }

  /** Throws where the system has no such files. */
  static create(maps: SharedMaps): MappedWriter {
    const fd = maps.create(FILE_BYTES);
    try {
      maps.allocate(fd, 0, PAYLOADS_AT);
      return new MappedWriter(maps, fd, maps.open(fd, FILE_BYTES));
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  place(offset: number, length: number): Uint8Array | undefined {
    return this.#hasMemory(offset + length) ? new Uint8Array(this.#map.buffer, offset, length) : undefined;
  }

  offsetOf({ buffer, byteOffset }: Uint8Array): number | undefined {
    return buffer === this.#map.buffer ? byteOffset : undefined;
  }

  write(offset: number, payload: Uint8Array): boolean {
    const target = this.place(offset, payload.length);
    target?.set(payload);
    return target !== undefined;
  }

  read(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.#map.buffer, offset, length).slice();
  }

  publish(slot: number, { use, offset, length }: Entry): void {
    const at = wordAt(slot);
    this.#words[at + OFFSET] = offset;
    this.#words[at + LENGTH] = length;
    Atomics.store(this.#words, at + USE, use);
  }

  isFree(slot: number): boolean {
    const at = wordAt(slot);
    return Atomics.load(this.#words, at + USE) === 0 && Atomics.load(this.#words, at + READER) === 0;
  }

  /** In this order, the reverse of a reader's: either it finds the use to be 0, or its mark is found here. */
  withdraw(slot: number): number {
    Atomics.store(this.#words, wordAt(slot) + USE, 0);
    return Atomics.load(this.#words, wordAt(slot) + READER);
  }

  clear(slot: number): void {
    Atomics.store(this.#words, wordAt(slot) + READER, 0);
  }

  close(): void {
    this.#map.release();
    fs.closeSync(this.fd);
  }

  #hasMemory(end: number): boolean {
    if (end <= this.#allocated) return true;
    const from = this.#allocated;
    const to = Math.min(FILE_BYTES, Math.ceil(end / GROWTH_BYTES) * GROWTH_BYTES);
    try {
      this.#maps.allocate(this.fd, from, to - from);
    } catch {
      return false;
    }
    this.#allocated = to;
    return true;
  }
}

/**
 * Payloads are read where they lie. While one is taken its slot bears this thread's mark, and for so long its writer does not touch
 * it, even if this thread stops for hours.
 */
export class MappedReader implements SharedReader {
  readonly #map: SharedMap;
  readonly #words: Int32Array;
  readonly #threadId: number;
  /** Where the entry is whose payload is taken. */
  #taken: number | undefined;

  /** Throws if the file is not one that stays as it is: not from a `MappedWriter`. */
  constructor(maps: SharedMaps, fd: number) {
    this.#map = maps.open(fd, FILE_BYTES);
    this.#words = wordsOf(this.#map);
    this.#threadId = maps.threadId;
  }

  take(ticket: Ticket): Uint8Array | undefined {
    this.release();
    if (!isInside(ticket)) return undefined;
    const at = wordAt(ticket.slot);
    const words = this.#words;
    // A ticket that came twice: somebody else is reading.
    if (Atomics.compareExchange(words, at + READER, 0, this.#threadId) !== 0) return undefined;
    const use = Atomics.load(words, at + USE);
    const { offset, length } = ticket;
    if (!agrees({ use, offset: words[at + OFFSET] ?? 0, length: words[at + LENGTH] ?? 0 }, ticket)) {
      Atomics.store(words, at + READER, 0);
      return undefined;
    }
    this.#taken = at;
    return new Uint8Array(this.#map.buffer, offset, length);
  }

  release(): void {
    if (this.#taken === undefined) return;
    Atomics.store(this.#words, this.#taken + USE, 0);
    Atomics.store(this.#words, this.#taken + READER, 0);
    this.#taken = undefined;
  }

  close(): void {
    this.release();
    this.#map.release();
  }
}
