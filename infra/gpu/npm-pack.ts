import { execFile } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { megabytes } from "../download.ts";
import { RallyError } from "../errors.ts";

const run = promisify(execFile);
const LOOK_EVERY_MS = 500;

export interface NpmPack {
  readonly spec: string;
  readonly bytes: number;
  /** Everything is put there, npm's cache of it, too. */
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: (text: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * The archive of a package, as the registry has it: by npm itself, which knows the user's registry, proxy and credentials.
 * RallyError `fetch-failed`, `no-disk-space` or `cancelled`.
 */
export async function npmPack({ spec, bytes, folder, env, progress, signal }: NpmPack): Promise<string> {
  await mkdir(folder, { recursive: true });
  progress(`fetching ${spec} with npm`);
  // npm tells its progress to terminals only; its cache grows as it receives.
  const cache = path.join(folder, "npm-cache");
  const timer = setInterval(() => {
    const received = Math.min(sizeOf(cache), bytes);
    progress(`fetching ${spec} with npm: ${megabytes(received)} of ${megabytes(bytes)} MB`);
  }, LOOK_EVERY_MS);
  const args = ["pack", spec, "--cache", cache, "--loglevel=error"];
  // Without network the default is to try for a minute and a half.
  args.push("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000");
  try {
    await run("npm", args, { cwd: folder, env, ...(signal !== undefined && { signal }) });
  } catch (cause) {
    if (signal?.aborted === true) throw new RallyError("cancelled", "interrupted");
    throw npmError(spec, cause);
  } finally {
    clearInterval(timer);
  }
  const archive = (await readdir(folder)).find((name) => name.endsWith(".tgz"));
  if (archive === undefined)
    throw new RallyError("fetch-failed", `npm pack ${spec} wrote no archive`, { package: spec });
  return path.join(folder, archive);
}

function npmError(spec: string, cause: unknown): RallyError {
  const text = cause instanceof Error && "stderr" in cause ? String(cause.stderr) : "";
  if (text.includes("ENOSPC")) return new RallyError("no-disk-space", `npm pack ${spec}: no disk space left`);
  const lines = text.split("\n").map((line) => line.replace(/^npm (error|ERR!) ?/, ""));
  const told = lines.filter((line) => line !== "" && !line.startsWith("A complete log")).slice(0, 3);
  const reason = told.length > 0 ? told.join(" ") : cause instanceof Error ? cause.message : String(cause);
  return new RallyError("fetch-failed", `npm pack ${spec}: ${reason.slice(0, 400)}`, { package: spec }, { cause });
}

function sizeOf(folder: string): number {
  let bytes = 0;
  try {
    for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
      const found = statSync(path.join(folder, name), { throwIfNoEntry: false });
      if (found?.isFile() === true) bytes += found.size;
    }
  } catch {
    // npm moves its files about meanwhile.
  }
  return bytes;
}
