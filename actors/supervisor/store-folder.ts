import { mkdir, readdir, readFile, rm, statfs, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { RallyError } from "../../infra/errors.ts";
import { isGone, ownIdentity, type ProcessIdentity } from "./process-identity.ts";

/** What a supervisor asks of the folder that a nats-server of its own keeps its files in. */
export interface StoreFolder {
  /** Makes it if need be. RallyError `store-unavailable` unless it can be written to and has `ENOUGH_BYTES` free. */
  check(folder: string): Promise<void>;
  /** Whether the server may go on writing: `bytes` are free, as far as the system tells. */
  hasRoom(folder: string, bytes: number): Promise<boolean>;
  /** The port of the last server over this store, if nobody has it now: clients and actors that still wait find it again. */
  lastPort(folder: string): Promise<number | undefined>;
  keepPort(folder: string, port: number): Promise<void>;
  /** Notes that a temporary folder is this process' own. */
  claim(folder: string): Promise<void>;
  /** Removes temporary folders that processes left behind which could not end as they should. */
  sweep(): Promise<void>;
}

/**
 * A nats-server 2.9 that meets a full disk never answers again, even when there is room; so it is not let go so far. Below
 * `LOW_BYTES` requests are refused, from `ENOUGH_BYTES` on they are taken again.
 */
export const LOW_BYTES = 32 << 20;
export const ENOUGH_BYTES = 64 << 20;

const PORT_FILE = "port";
const OWNER_FILE = "owner.json";
/** As infra/nats-server-process.ts names them. */
const TEMPORARY = /^rally-nats-/;
const PROBE_FILE = "probe";

export const storeFolder: StoreFolder = {
  async check(folder) {
    try {
      await mkdir(folder, { recursive: true });
      // A page of it, so that a full disk shows; written each time, because only that tells.
      await writeFile(path.join(folder, PROBE_FILE), new Uint8Array(4096));
    } catch (thrown) {
      throw storeError(thrown, folder);
    }
    const free = await freeBytes(folder);
    if (free < ENOUGH_BYTES) {
      throw new RallyError(
        "store-unavailable",
        `the store ${folder} has ${mebibytes(free)} free, needed are ${mebibytes(ENOUGH_BYTES)}: make room, or name another folder with --store`,
        { folder, free, needed: ENOUGH_BYTES },
      );
    }
  },

  async hasRoom(folder, bytes) {
    return (await freeBytes(folder)) >= bytes;
  },

  async lastPort(folder) {
    const port = Number(await readFile(path.join(folder, PORT_FILE), "utf8").catch(() => ""));
    return Number.isInteger(port) && port > 0 && (await isFree(port)) ? port : undefined;
  },

  async keepPort(folder, port) {
    await writeFile(path.join(folder, PORT_FILE), `${port}\n`).catch(() => undefined);
  },

  async claim(folder) {
    await writeFile(path.join(folder, OWNER_FILE), JSON.stringify(ownIdentity())).catch(() => undefined);
  },

  async sweep() {
    const names = await readdir(os.tmpdir()).catch(() => []);
    for (const name of names.filter((each) => TEMPORARY.test(each))) {
      const folder = path.join(os.tmpdir(), name);
      try {
        const owner = JSON.parse(await readFile(path.join(folder, OWNER_FILE), "utf8")) as ProcessIdentity;
        // Its nats-server has ended with it.
        if (isGone(owner)) await rm(folder, { recursive: true, force: true });
      } catch {
        // Not ours to read, just being made, or just being removed.
      }
    }
  },
};

/** What the system says of a folder that cannot be written to, in the words of the command line. Other errors as they are. */
export function storeError(thrown: unknown, folder: string): RallyError {
  if (thrown instanceof RallyError) return thrown;
  const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
  const reason = REASONS[code];
  if (reason === undefined) return RallyError.from(thrown);
  return new RallyError(
    "store-unavailable",
    `the store ${folder} cannot be written to: ${reason}. Make it writable, or name another folder with --store`,
    { folder, reason: code },
    { cause: thrown },
  );
}

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EROFS: "its file system is read-only",
  EACCES: "permission denied",
  EPERM: "permission denied",
  ENOENT: "it does not exist and cannot be made",
  ENOTDIR: "part of its path is a file",
  EEXIST: "a file is in its place",
  EIO: "the disk does not work",
};

async function freeBytes(folder: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(folder);
    return bavail * bsize;
  } catch {
    // A folder that cannot even be looked at gives no reason to stop a server that works.
    return Infinity;
  }
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`;
}
