import { randomBytes } from "node:crypto";
import fs from "node:fs";
import { SharedMaps } from "./native/shared-map.ts";
import { CopyingWriter } from "./shared-copied.ts";
import { FILE_BYTES, PAGE, PAYLOADS_AT, type SharedWriter, writeHeader } from "./shared-file.ts";
import { MappedWriter } from "./shared-mapped.ts";
import { SharedSpace } from "./shared-space.ts";
import { ID_BYTES, NUM_SLOTS, readTicket, writeTicket } from "./shared-ticket.ts";

/** A payload that nobody has begun to read by then never will be read: its reader is gone. */
const RECLAIM_MS = 10_000;
const MOST_USES = 2 ** 31 - 1;

interface Slot<T> {
  readonly slot: number;
  readonly offset: number;
  readonly length: number;
  readonly use: number;
  readonly writtenAt: number;
  readonly about: T;
}

/**
 * Payloads between processes of one host through a file in memory: one writes there and sends a ticket, the other reads. The file has no
 * name and is reached through the writer's /proc/<pid>/fd, so that nothing is left behind however the writer ends. Where the native
 * addon is built both sides map it; else they copy, and both kinds understand each other.
 * `T` is what the writer wants to remember of each payload until it was read.
 */
export class SharedOutbox<T> {
  readonly id: Uint8Array = new Uint8Array(randomBytes(ID_BYTES));
  readonly #file: SharedWriter;
  readonly #now: () => number;
  readonly #space = new SharedSpace(PAYLOADS_AT, FILE_BYTES);
  readonly #freeSlots = Array.from({ length: NUM_SLOTS }, (_, i) => NUM_SLOTS - 1 - i);
  /** In use, the oldest first. */
  #written: Slot<T>[] = [];
  /** Of the memory at an offset: its payload's tickets that are not over, and whoever holds it. */
  readonly #numUsers = new Map<number, number>();
  #lastUse = 0;
  #isClosed = false;

  private constructor(file: SharedWriter, now: () => number) {
    this.#file = file;
    this.#now = now;
    writeHeader(file.fd, this.id);
    // Where /proc does not show it, nobody could read it.
    fs.closeSync(fs.openSync(`/proc/${process.pid}/fd/${file.fd}`, "r"));
  }

  /** Undefined where memory cannot be shared. `maps` "none": as where there is no addon. */
  static open<T>(
    now: () => number = () => performance.now(),
    maps: SharedMaps | "none" = SharedMaps.find() ?? "none",
  ): SharedOutbox<T> | undefined {
    const ways = [...(maps === "none" ? [] : [() => MappedWriter.create(maps)]), () => CopyingWriter.create()];
    for (const create of ways) {
      let file: SharedWriter | undefined;
      try {
        file = create();
        return new SharedOutbox<T>(file, now);
      } catch {
        file?.close();
      }
    }
    return undefined;
  }

  /**
   * The ticket of the stored payload; undefined if there is no room. One in memory that is held stays there: put again it has several
   * tickets, for as many readers.
   */
  put(payload: Uint8Array, about: T): Uint8Array | undefined {
    this.#collect();
    if (this.#freeSlots.length === 0) this.#collectAll();
    const offset = this.#heldAt(payload) ?? this.#store(payload);
    const slot = this.#freeSlots.at(-1);
    if (offset === undefined || slot === undefined) {
      if (offset !== undefined) this.#drop(offset);
      return undefined;
    }
    this.#freeSlots.pop();
    this.#lastUse = this.#lastUse === MOST_USES ? 1 : this.#lastUse + 1;
    const written = { slot, offset, length: payload.length, use: this.#lastUse, writtenAt: this.#now(), about };
    this.#file.publish(slot, written);
    this.#written.push(written);
    return writeTicket({ ...written, id: this.id, pid: process.pid, fd: this.#file.fd });
  }

  /** Memory to make a payload in that then need not be copied; undefined if there is none. The caller's until `letGo`. */
  hold(numBytes: number): Uint8Array | undefined {
    if (this.#isClosed || !this.#file.isMapped) return undefined;
    this.#collect();
    const offset = this.#take(numBytes);
    if (offset === undefined) return undefined;
    const bytes = this.#file.place(offset, numBytes);
    if (bytes === undefined) this.#drop(offset);
    return bytes;
  }

  /** What was put there stays for its readers. */
  letGo(held: Uint8Array): void {
    const offset = this.#file.offsetOf(held);
    if (offset !== undefined) this.#drop(offset);
  }

  /** Takes back a payload that its receiver could not read. */
  takeBack(ticketBytes: Uint8Array): { readonly payload: Uint8Array; readonly about: T } | undefined {
    const ticket = readTicket(ticketBytes);
    if (ticket === undefined || !ticket.id.every((byte, i) => byte === this.id[i])) return undefined;
    const wanted = this.#written.find(({ slot, use }) => slot === ticket.slot && use === ticket.use);
    if (wanted === undefined || this.#file.isFree(wanted.slot) || this.#file.withdraw(wanted.slot) !== 0)
      return undefined;
    const payload = this.#file.read(wanted.offset, wanted.length);
    this.#written.splice(this.#written.indexOf(wanted), 1);
    this.#give(wanted);
    return { payload, about: wanted.about };
  }

  close(): void {
    this.#isClosed = true;
    this.#file.close();
  }

  #collect(): void {
    for (let oldest = this.#written[0]; oldest !== undefined && this.#isOver(oldest); oldest = this.#written[0]) {
      this.#written.shift();
      this.#give(oldest);
    }
  }

  /** Others than the oldest may be over. */
  #collectAll(): void {
    const written = this.#written;
    this.#written = [];
    for (const slot of written) {
      if (this.#isOver(slot)) this.#give(slot);
      else this.#written.push(slot);
    }
  }

  /** With one more user; undefined if it lies nowhere that is held. */
  #heldAt(payload: Uint8Array): number | undefined {
    const offset = this.#file.offsetOf(payload);
    const numUsers = offset === undefined ? undefined : this.#numUsers.get(offset);
    if (offset === undefined || numUsers === undefined) return undefined;
    this.#numUsers.set(offset, numUsers + 1);
    return offset;
  }

  #store(payload: Uint8Array): number | undefined {
    const offset = this.#take(payload.length);
    if (offset === undefined || this.#file.write(offset, payload)) return offset;
    this.#drop(offset);
    return undefined;
  }

  /** Has one user then. */
  #take(length: number): number | undefined {
    const size = pages(length);
    let offset = this.#space.takeUsed(size);
    if (offset === undefined) {
      this.#collectAll();
      offset = this.#space.take(size);
    }
    if (offset !== undefined) this.#numUsers.set(offset, 1);
    return offset;
  }

  #drop(offset: number): void {
    const numUsers = (this.#numUsers.get(offset) ?? 1) - 1;
    if (numUsers > 0) {
      this.#numUsers.set(offset, numUsers);
      return;
    }
    this.#numUsers.delete(offset);
    this.#space.give(offset);
  }

  /** Whether its memory may be used again. */
  #isOver({ slot, writtenAt }: Slot<T>): boolean {
    if (this.#file.isFree(slot)) return true;
    if (this.#now() - writtenAt < RECLAIM_MS) return false;
    const reader = this.#file.withdraw(slot);
    if (reader !== 0 && fs.existsSync(`/proc/${reader}`)) return false;
    this.#file.clear(slot);
    return true;
  }

  #give({ offset, slot }: Slot<T>): void {
    this.#drop(offset);
    this.#freeSlots.push(slot);
  }
}

const pages = (length: number): number => Math.max(1, Math.ceil(length / PAGE)) * PAGE;
