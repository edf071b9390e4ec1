import { type ChildProcess, execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { chmod, copyFile, type FileHandle, mkdir, open, stat, symlink } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { RallyError } from "../errors.ts";
import type { BundleEntry } from "./bundle-layers.ts";

const run = promisify(execFile);

/** The same files give the same archive. */
const TAR_OPTIONS = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];

export interface Part {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Puts a layer's files into `stage`; returns a hash of all that a host would see of them. */
export async function stageLayer(entries: readonly BundleEntry[], stage: string): Promise<string> {
  const hash = createHash("sha256");
  for (const entry of entries.toSorted((a, b) => (a.target < b.target ? -1 : 1))) {
    const file = path.join(stage, entry.target);
    await mkdir(path.dirname(file), { recursive: true });
    if ("link" in entry) {
      await symlink(entry.link, file);
      hash.update(`${entry.target} -> ${entry.link}\n`);
      continue;
    }
    await place(entry, file);
    const isProgram = ((await stat(file)).mode & 0o100) !== 0;
    await chmod(file, isProgram ? 0o755 : 0o644);
    hash.update(`${entry.target} ${isProgram} ${await hashOf(file)}\n`);
  }
  return hash.digest("hex");
}

/** Writes `stage` as `<name>.tar.xz.00` … into `folder`, none larger than `partBytes`. */
export async function archiveLayer(stage: string, name: string, folder: string, partBytes: number): Promise<Part[]> {
  const tar = spawn("tar", [...TAR_OPTIONS, "-cf", "-", "-C", stage, "."], { stdio: ["ignore", "pipe", "inherit"] });
  const xz = spawn("xz", ["-6", "-T0", "-c"], { stdio: ["pipe", "pipe", "inherit"] });
  const [parts] = await Promise.all([
    split(xz.stdout, `${name}.tar.xz`, folder, partBytes),
    pipeline(tar.stdout, xz.stdin),
    success("tar", tar),
    success("xz", xz),
  ]);
  return parts;
}

async function place({ from, strip = false }: { from: string; strip?: boolean }, file: string): Promise<void> {
  await copyFile(from, file);
  if (!strip) return;
  // No such tool: larger, but as good.
  await run("strip", [file]).catch(() => undefined);
}

async function success(name: string, child: ChildProcess): Promise<void> {
  const [status] = (await once(child, "exit")) as [number | null];
  if (status !== 0) throw new RallyError("internal", `${name} ended with status ${status}`, { tool: name });
}

async function split(stream: AsyncIterable<Buffer>, name: string, folder: string, partBytes: number): Promise<Part[]> {
  const parts: Part[] = [];
  let part = await OpenPart.create(folder, name, 0);
  for await (const chunk of stream) {
    let rest = chunk;
    while (part.bytes + rest.length > partBytes) {
      const room = partBytes - part.bytes;
      await part.write(rest.subarray(0, room));
      rest = rest.subarray(room);
      parts.push(await part.close());
      part = await OpenPart.create(folder, name, parts.length);
    }
    await part.write(rest);
  }
  parts.push(await part.close());
  return parts;
}

class OpenPart {
  readonly #name: string;
  readonly #file: FileHandle;
  readonly #hash = createHash("sha256");
  bytes = 0;

  private constructor(name: string, file: FileHandle) {
    this.#name = name;
    this.#file = file;
  }

  static async create(folder: string, name: string, index: number): Promise<OpenPart> {
    // Joined in the order of their names.
    const partName = `${name}.${String(index).padStart(2, "0")}`;
    return new OpenPart(partName, await open(path.join(folder, partName), "w"));
  }

  async write(chunk: Buffer): Promise<void> {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
    await this.#file.writeFile(chunk);
  }

  async close(): Promise<Part> {
    await this.#file.close();
    return { name: this.#name, bytes: this.bytes, sha256: this.#hash.digest("hex") };
  }
}

export async function hashOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
