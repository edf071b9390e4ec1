import { randomBytes } from "node:crypto";
import fs from "node:fs";
import { assert } from "./errors.ts";
import { SharedMaps } from "./native/shared-map.ts";
import { CopyingWriter } from "./shared-copied.ts";
import { FILE_BYTES, NUM_SLOTS, PAGE, PAYLOADS_AT, type SharedWriter, writeHeader } from "./shared-file.ts";
import { MappedWriter } from "./shared-mapped.ts";
import { SharedSpace } from "./shared-space.ts";
import { ID_BYTES, readTicket, writeTicket } from "./shared-ticket.ts";

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

/** Memory where a payload can be made that is then shared without being copied. */
export interface Reservation<T> {
  readonly bytes: Uint8Array;
  /** The ticket of what lies in the first `length` bytes. Once, and before the next reservation. */
  commit(length: number, about: T): Uint8Array | undefined;
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
  #reservation: Reservation<T> | undefined;
  #reservedAt = 0;
  #uses = 0;

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

  /** The ticket of the stored payload; undefined if there is no room. */
  put(payload: Uint8Array, about: T): Uint8Array | undefined {
    const offset = this.#take(payload.length);
    return offset === undefined ? undefined : this.#publish(offset, payload, about);
  }

  /** Undefined if there is no room. Given up by the next one, unless it is committed. */
  reserve(maxBytes: number): Reservation<T> | undefined {
    if (this.#reservation !== undefined) this.#space.give(this.#reservedAt);
    this.#reservation = undefined;
    const offset = this.#take(maxBytes);
    if (offset === undefined) return undefined;
    const bytes = this.#file.reserve(offset, maxBytes);
    if (bytes === undefined) {
      this.#space.give(offset);
      return undefined;
    }
    this.#reservedAt = offset;
    const reservation: Reservation<T> = {
      bytes,
      commit: (length, about) => {
        assert(this.#reservation === reservation && length <= maxBytes, "a reservation is committed once, and in time");
        this.#reservation = undefined;
        this.#space.shrink(offset, pages(length));
        return this.#publish(offset, bytes.subarray(0, length), about);
      },
    };
    this.#reservation = reservation;
    return reservation;
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
    this.#file.close();
  }

  #take(length: number): number | undefined {
    while (this.#written[0] !== undefined && this.#isOver(this.#written[0])) this.#give(this.#written.shift());
    const size = pages(length);
    const offset = this.#freeSlots.length === 0 ? undefined : this.#space.takeUsed(size);
    if (offset !== undefined) return offset;
    // Others than the oldest may have been read.
    const isOver = this.#written.map((slot) => this.#isOver(slot));
    for (const slot of this.#written.filter((_, i) => isOver[i])) this.#give(slot);
    this.#written = this.#written.filter((_, i) => isOver[i] !== true);
    return this.#freeSlots.length === 0 ? undefined : this.#space.take(size);
  }

  #publish(offset: number, payload: Uint8Array, about: T): Uint8Array | undefined {
    const slot = this.#freeSlots.at(-1);
    if (slot === undefined || !this.#file.write(offset, payload)) {
      this.#space.give(offset);
      return undefined;
    }
    this.#freeSlots.pop();
    this.#uses = this.#uses === MOST_USES ? 1 : this.#uses + 1;
    const written = { slot, offset, length: payload.length, use: this.#uses, writtenAt: this.#now(), about };
    this.#file.publish(slot, written);
    this.#written.push(written);
    return writeTicket({ ...written, id: this.id, pid: process.pid, fd: this.#file.fd });
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

  #give(written: Slot<T> | undefined): void {
    if (written === undefined) return;
    this.#space.give(written.offset);
    this.#freeSlots.push(written.slot);
  }
}

const pages = (length: number): number => Math.max(1, Math.ceil(length / PAGE)) * PAGE;
