import { randomBytes } from "node:crypto";
import fs from "node:fs";

/**
 * Payloads between processes of one host through a file in memory: one writes at an offset and sends a ticket, the other
 * reads there. The file is unlinked as soon as it is open and reached through the writer's /proc/<pid>/fd, so that nothing is
 * left behind however the writer ends.
 */
const FOLDER = "/dev/shm";
/** The file's first bytes: its id, so that a reader in another PID namespace, or after a pid was reused, notices. */
const ID_BYTES = 16;
/** Before each payload: the number of its use, 0 once it was read. */
const MARK_BYTES = 8;
const PAGE = 4096;
const MAX_FILE_BYTES = 128 * 1024 * 1024;
/** A payload that nobody has read by then never will be: its reader is gone. */
const RECLAIM_MS = 10_000;
const MAX_OPEN_FILES = 32;
/**
 * Large arrays begin 16 bytes into a page, payloads in the file 8. Copying between two places that lie so close to each other
 * within their pages is five times slower (measured on AMD EPYC: 64 KiB in 25 µs instead of 5).
 */
const APART = 1024;

interface Slot<T> {
  readonly offset: number;
  readonly size: number;
  use: number;
  length: number;
  writtenAt: number;
  about: T;
}

/** Where a payload lies: id, then pid, fd, offset, length and use as doubles. */
export const TICKET_BYTES = ID_BYTES + 5 * 8;

interface Ticket {
  readonly id: Uint8Array;
  readonly pid: number;
  readonly fd: number;
  readonly offset: number;
  readonly length: number;
  readonly use: number;
}

function writeTicket({ id, pid, fd, offset, length, use }: Ticket): Uint8Array {
  const bytes = new Uint8Array(TICKET_BYTES);
  bytes.set(id);
  const view = new DataView(bytes.buffer, ID_BYTES);
  for (const [i, value] of [pid, fd, offset, length, use].entries()) view.setFloat64(8 * i, value, true);
  return bytes;
}

/** Undefined for bytes that are no ticket. */
function readTicket(bytes: Uint8Array): Ticket | undefined {
  if (bytes.length !== TICKET_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + ID_BYTES, 5 * 8);
  const [pid, fd] = [view.getFloat64(0, true), view.getFloat64(8, true)];
  const [offset, length, use] = [view.getFloat64(16, true), view.getFloat64(24, true), view.getFloat64(32, true)];
  for (const value of [pid, fd, offset, length, use])
    if (!(Number.isSafeInteger(value) && value >= 0)) return undefined;
  return { id: bytes.subarray(0, ID_BYTES), pid, fd, offset, length, use };
}

/** The writing side. `T` is what the writer wants to remember of each payload until it was read. */
export class SharedOutbox<T> {
  readonly id: Uint8Array = new Uint8Array(randomBytes(ID_BYTES));
  readonly #fd: number;
  readonly #now: () => number;
  readonly #mark = new Float64Array(1);
  readonly #markBytes = new Uint8Array(this.#mark.buffer);
  /** Per slot size, those in use, the oldest first. */
  readonly #written = new Map<number, Slot<T>[]>();
  #fileBytes = PAGE;
  #uses = 0;

  private constructor(fd: number, now: () => number) {
    this.#fd = fd;
    this.#now = now;
    fs.writeSync(fd, this.id, 0, ID_BYTES, 0);
  }

  /** Undefined where there is no memory file system, or no room in it. */
  static open<T>(now: () => number = () => performance.now()): SharedOutbox<T> | undefined {
    try {
      const file = `${FOLDER}/rally-${randomBytes(8).toString("hex")}`;
      const fd = fs.openSync(file, "wx+", 0o600);
      fs.unlinkSync(file);
      // Where /proc does not show it, nobody could read it.
      fs.closeSync(fs.openSync(`/proc/${process.pid}/fd/${fd}`, "r"));
      return new SharedOutbox<T>(fd, now);
    } catch {
      return undefined;
    }
  }

  /** The ticket of the stored payload; undefined if there is no room. */
  put(payload: Uint8Array, about: T): Uint8Array | undefined {
    const size = Math.max(PAGE, 2 ** Math.ceil(Math.log2(payload.length + MARK_BYTES)));
    const slot = this.#freeSlot(size) ?? this.#newSlot(size, about);
    if (slot === undefined) return undefined;
    slot.use = ++this.#uses;
    slot.length = payload.length;
    slot.writtenAt = this.#now();
    slot.about = about;
    const written = this.#written.get(size);
    if (written === undefined) this.#written.set(size, [slot]);
    else written.push(slot);
    this.#mark[0] = slot.use;
    try {
      // The mark first: whoever still reads what was here sees by it that it has gone.
      const count = fs.writevSync(this.#fd, [this.#markBytes, payload], slot.offset);
      if (count < MARK_BYTES + payload.length) return undefined;
    } catch {
      return undefined;
    }
    const { offset, length, use } = slot;
    return writeTicket({ id: this.id, pid: process.pid, fd: this.#fd, offset, length, use });
  }

  /** Takes back a payload that its receiver could not read. */
  takeBack(ticket: Uint8Array): { readonly payload: Uint8Array; readonly about: T } | undefined {
    const wanted = readTicket(ticket);
    if (wanted === undefined || !wanted.id.every((byte, i) => byte === this.id[i])) return undefined;
    for (const slots of this.#written.values()) {
      const slot = slots.find(({ use }) => use === wanted.use);
      if (slot === undefined) continue;
      const payload = new Uint8Array(slot.length);
      fs.readSync(this.#fd, payload, 0, slot.length, slot.offset + MARK_BYTES);
      this.#mark[0] = 0;
      fs.writeSync(this.#fd, this.#markBytes, 0, MARK_BYTES, slot.offset);
      return { payload, about: slot.about };
    }
    return undefined;
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  /** The oldest slot, if it was read: the memory that is most likely still in the processor's cache. */
  #freeSlot(size: number): Slot<T> | undefined {
    const written = this.#written.get(size);
    const oldest = written?.[0];
    if (written === undefined || oldest === undefined) return undefined;
    if (this.#now() - oldest.writtenAt < RECLAIM_MS) {
      fs.readSync(this.#fd, this.#markBytes, 0, MARK_BYTES, oldest.offset);
      if (this.#mark[0] !== 0) return undefined;
    }
    written.shift();
    return oldest;
  }

  #newSlot(size: number, about: T): Slot<T> | undefined {
    if (this.#fileBytes + size > MAX_FILE_BYTES) return undefined;
    const offset = this.#fileBytes;
    this.#fileBytes += size;
    return { offset, size, use: 0, length: 0, writtenAt: 0, about };
  }
}

/** The reading side: opens the files of other processes as tickets name them. */
export class SharedInbox {
  readonly #files = new Map<string, { readonly fd: number; readonly pid: number }>();
  readonly #mark = new Float64Array(1);
  readonly #markBytes = new Uint8Array(this.#mark.buffer);
  #buffer = new Uint8Array(256 * 1024);

  /**
   * The payload, a view that the next `take` overwrites. "gone" if it was not read in time and given up, "unreachable" if the
   * writer is not of this host.
   */
  take(ticketBytes: Uint8Array, maxLength: number): Uint8Array | "gone" | "unreachable" {
    const ticket = readTicket(ticketBytes);
    // Uses count from 1: a mark of 0 is that of a payload that was read.
    if (ticket === undefined || ticket.length > maxLength || ticket.use === 0) return "gone";
    const { offset, length, use } = ticket;
    const fd = this.#open(ticket);
    if (fd === undefined) return "unreachable";
    if (APART + length > this.#buffer.length) this.#buffer = new Uint8Array(APART + 2 * length);
    const payload = this.#buffer.subarray(APART, APART + length);
    try {
      if (fs.readvSync(fd, [this.#markBytes, payload], offset) !== MARK_BYTES + length) return "gone";
      if (this.#mark[0] !== use) return "gone";
      // Unchanged afterwards too: then nobody has written here in the meantime.
      fs.readSync(fd, this.#markBytes, 0, MARK_BYTES, offset);
      if (this.#mark[0] !== use) return "gone";
      this.#mark[0] = 0;
      fs.writeSync(fd, this.#markBytes, 0, MARK_BYTES, offset);
      return payload;
    } catch {
      return "unreachable";
    }
  }

  close(): void {
    for (const { fd } of this.#files.values()) fs.closeSync(fd);
    this.#files.clear();
  }

  #open({ id, pid, fd: theirs }: Ticket): number | undefined {
    const key = Buffer.from(id.buffer, id.byteOffset, id.length).toString("latin1");
    const open = this.#files.get(key);
    if (open !== undefined) return open.fd;
    this.#closeOrphans();
    let fd: number | undefined;
    try {
      const file = `/proc/${pid}/fd/${theirs}`;
      // A ticket comes from the network: it may open nothing but a nameless file of our own user.
      const { nlink, uid } = fs.statSync(file);
      if (nlink !== 0 || uid !== process.getuid?.()) return undefined;
      fd = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
      const found = new Uint8Array(ID_BYTES);
      fs.readSync(fd, found, 0, ID_BYTES, 0);
      if (!found.every((byte, i) => byte === id[i])) throw new Error("another file");
      this.#files.set(key, { fd, pid });
      return fd;
    } catch {
      if (fd !== undefined) fs.closeSync(fd);
      return undefined;
    }
  }

  /** An open file of a process that is gone still takes its memory. */
  #closeOrphans(): void {
    for (const [key, { fd, pid }] of this.#files) {
      if (this.#files.size < MAX_OPEN_FILES && fs.existsSync(`/proc/${pid}`)) continue;
      fs.closeSync(fd);
      this.#files.delete(key);
    }
  }
}
