import fs from "node:fs";
import { SharedMaps } from "./native/shared-map.ts";
import { HeapScratch } from "./scratch-memory.ts";
import { CopyingReader } from "./shared-copied.ts";
import { hasHeader, type SharedReader } from "./shared-file.ts";
import { MappedReader } from "./shared-mapped.ts";
import { readTicket, type Ticket } from "./shared-ticket.ts";

const MAX_OPEN_FILES = 32;

/** The reading side: opens the files of other processes as tickets name them. */
export class SharedInbox {
  readonly #maps: SharedMaps | "none";
  readonly #files = new Map<string, { readonly file: SharedReader; readonly pid: number }>();
  readonly #scratch = new HeapScratch();
  #taken: SharedReader | undefined;

  constructor(maps: SharedMaps | "none" = SharedMaps.find() ?? "none") {
    this.#maps = maps;
  }

  /**
   * The payload, which stays as it is until `release`, or the next `take`. "gone" if it was not read in time and given up,
   * "unreachable" if the writer is not of this host.
   */
  take(ticketBytes: Uint8Array, maxLength: number): Uint8Array | "gone" | "unreachable" {
    this.release();
    const ticket = readTicket(ticketBytes);
    // Uses count from 1: that of a payload that was read is 0.
    if (ticket === undefined || ticket.length > maxLength || ticket.use === 0) return "gone";
    const file = this.#open(ticket);
    if (file === undefined) return "unreachable";
    this.#taken = file;
    try {
      return file.take(ticket) ?? "gone";
    } catch {
      return "unreachable";
    }
  }

  /** What was taken has been read, and its memory is its writer's again. */
  release(): void {
    this.#taken?.release();
    this.#taken = undefined;
  }

  close(): void {
    this.release();
    for (const { file } of this.#files.values()) file.close();
    this.#files.clear();
  }

  #open({ id, pid, fd: theirs }: Ticket): SharedReader | undefined {
    const key = Buffer.from(id.buffer, id.byteOffset, id.length).toString("latin1");
    const open = this.#files.get(key);
    if (open !== undefined) return open.file;
    this.#closeOrphans();
    let fd: number | undefined;
    try {
      const name = `/proc/${pid}/fd/${theirs}`;
      // A ticket comes from the network: it may open nothing but a nameless file of our own user.
      const { nlink, uid } = fs.statSync(name);
      if (nlink !== 0 || uid !== process.getuid?.()) return undefined;
      fd = fs.openSync(name, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
      if (!hasHeader(fd, id)) throw new Error("another file");
      const file = this.#reader(fd);
      this.#files.set(key, { file, pid });
      return file;
    } catch {
      if (fd !== undefined) fs.closeSync(fd);
      return undefined;
    }
  }

  #reader(fd: number): SharedReader {
    if (this.#maps === "none") return new CopyingReader(fd, this.#scratch);
    let mapped: MappedReader;
    try {
      mapped = new MappedReader(this.#maps, fd);
    } catch {
      // Its writer copies.
      return new CopyingReader(fd, this.#scratch);
    }
    fs.closeSync(fd);
    return mapped;
  }

  /** An open file of a process that is gone still takes its memory. */
  #closeOrphans(): void {
    for (const [key, { file, pid }] of this.#files) {
      if (this.#files.size < MAX_OPEN_FILES && fs.existsSync(`/proc/${pid}`)) continue;
      file.close();
      this.#files.delete(key);
    }
  }
}
