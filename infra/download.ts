import { createHash, type Hash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { RallyError } from "./errors.ts";

export interface Download {
  readonly url: string;
  /** Of the whole file; anything else is never used. */
  readonly sha256: string;
  /** What it is, at the head of progress lines. */
  readonly name: string;
  readonly folder: string;
  readonly progress: (text: string) => void;
  readonly signal?: AbortSignal;
}

const CONNECT_MS = 6_000;
const STALL_MS = 15_000;
/** A connection that breaks in mid-file is made anew, as long as each brings something. */
const MOST_ATTEMPTS = 5;

/**
 * Resolves with the path of a file in `folder` whose content has the hash; it is the caller's to move or remove. What an attempt
 * has got before it failed stays there, and the next one goes on from it. RallyError `fetch-failed`, `hash-mismatch`,
 * `no-disk-space` or `cancelled`.
 */
export async function download(wanted: Download): Promise<string> {
  const { url, sha256, folder, progress, name } = wanted;
  await mkdir(folder, { recursive: true });
  const part = await claimPart(folder, sha256);
  let file: FileHandle | undefined;
  try {
    progress(`${name}: fetching ${url}`);
    file = await open(part, "a");
    const hash = createHash("sha256");
    let received = (await file.stat()).size;
    if (received > 0) for await (const chunk of createReadStream(part)) hash.update(chunk as Buffer);
    // Another process may have died with the whole of it.
    if (hash.copy().digest("hex") === sha256) return part;
    const state: Received = { file, hash, bytes: received };
    for (let attempt = 1; ; attempt++) {
      try {
        await receive(wanted, state);
        break;
      } catch (thrown) {
        const isStuck = state.bytes === received || attempt === MOST_ATTEMPTS;
        if (isStuck || RallyError.from(thrown).code !== "fetch-failed") throw thrown;
        received = state.bytes;
      }
    }
    const found = state.hash.digest("hex");
    if (found === sha256) return part;
    await rm(part, { force: true });
    throw mismatch(url, found, sha256);
  } catch (thrown) {
    // Free for the next attempt, whoever makes it.
    if ((await file?.stat())?.size === 0) await rm(part, { force: true });
    else await rename(part, freePart(folder, sha256)).catch(() => undefined);
    throw thrown;
  } finally {
    await file?.close();
  }
}

/** What a failed attempt has left is not needed any more. */
export async function forgetPart(folder: string, sha256: string): Promise<void> {
  await rm(freePart(folder, sha256), { force: true });
}

export function mismatch(source: string, found: string, expected: string): RallyError {
  const message = `${source} has SHA-256 ${found}, expected ${expected}: not used`;
  return new RallyError("hash-mismatch", message, { source, found, expected });
}

/** A full disk has a code of its own, whatever was being written. */
export function writeError(thrown: unknown, folder: string): unknown {
  const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
  if (code !== "ENOSPC" && code !== "EDQUOT") return thrown;
  const message = `no disk space left in ${folder}; make room, or choose another folder with XDG_CACHE_HOME`;
  return new RallyError("no-disk-space", message, { folder }, { cause: thrown });
}

interface Received {
  readonly file: FileHandle;
  hash: Hash;
  bytes: number;
}

/** One connection: asks for what is missing and appends what comes. */
async function receive({ url, name, folder, progress, signal }: Download, state: Received): Promise<void> {
  const abort = new AbortController();
  const cancel = () => abort.abort(new RallyError("cancelled", "interrupted"));
  if (signal?.aborted) cancel();
  signal?.addEventListener("abort", cancel);
  let timer = setTimeout(() => abort.abort(new Error(`no answer within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
  try {
    const headers: Record<string, string> = { "accept-encoding": "identity" };
    if (state.bytes > 0) headers["range"] = `bytes=${state.bytes}-`;
    const response = await fetch(url, { signal: abort.signal, headers });
    const goesOn = response.headers.get("content-range")?.startsWith(`bytes ${state.bytes}-`) === true;
    if (response.status === 206 && !goesOn) throw new Error("the answer is not the part that was asked for");
    if (state.bytes > 0 && (response.status === 200 || response.status === 416)) {
      // A server without ranges, or a part that is longer than the file: from the beginning.
      await state.file.truncate(0);
      state.hash = createHash("sha256");
      state.bytes = 0;
    }
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    const total = state.bytes + Number(response.headers.get("content-length") ?? 0);
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error(`stalled for ${STALL_MS / 1000} s`)), STALL_MS);
      for (let at = 0; at < chunk.length;) at += (await state.file.write(chunk, at)).bytesWritten;
      state.hash.update(chunk);
      state.bytes += chunk.length;
      if (total > 0) progress(`${name}: ${megabytes(state.bytes)} of ${megabytes(total)} MB`);
    }
  } catch (thrown) {
    throw fetchError(url, abort.signal.aborted ? abort.signal.reason : writeError(thrown, folder));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", cancel);
  }
}

export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function fetchError(url: string, reason: unknown): RallyError {
  if (reason instanceof RallyError) return reason;
  const text = reason instanceof Error ? reason.message : String(reason);
  const cause = reason instanceof Error && reason.cause instanceof Error ? `: ${reason.cause.message}` : "";
  return new RallyError("fetch-failed", `${url}: ${text}${cause}`, { url }, { cause: reason });
}

/** A part has one writer: its name carries the writer's process id, and who takes over the part of a dead one renames it. */
async function claimPart(folder: string, sha256: string): Promise<string> {
  const own = path.join(folder, `${partName(sha256)}.${process.pid}-${randomBytes(4).toString("hex")}.part`);
  for (const name of await readdir(folder)) {
    const found = new RegExp(`^${partName(sha256)}(?:\\.(\\d+)-[\\da-f]+)?\\.part$`).exec(name);
    if (found === null || (found[1] !== undefined && isAlive(Number(found[1])))) continue;
    try {
      await rename(path.join(folder, name), own);
      break;
    } catch {
      // Somebody else was faster.
    }
  }
  return own;
}

function freePart(folder: string, sha256: string): string {
  return path.join(folder, `${partName(sha256)}.part`);
}

function partName(sha256: string): string {
  return `fetching-${sha256.slice(0, 16)}`;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
