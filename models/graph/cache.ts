import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { crc32 } from "node:zlib";
import { RallyError } from "../../infra/errors.ts";
import { mendFolder, placeFolder } from "../../infra/place-folder.ts";

const MANIFEST = "manifest.json";
/** A build folder this old was left behind by a process that died. */
const STALE_BUILD_MS = 60 * 60 * 1000;

export function defaultCacheDir(): string {
  const base = process.env["XDG_CACHE_HOME"];
  return path.join(base !== undefined && base !== "" ? base : path.join(homedir(), ".cache"), "rally");
}

/**
 * The folder of the graphs that `key` names, built by `build` if it is not there whole. Several processes may build at
 * once: each builds in a folder of its own, the first to finish gives it its name, the others use that one.
 */
export function cachedGraphs(cacheDir: string, key: string, build: (dir: string) => void): string {
  const dir = path.join(cacheDir, "graphs", key);
  if (isWhole(dir)) return dir;
  let building: string;
  try {
    mkdirSync(path.dirname(dir), { recursive: true });
    removeStaleBuilds(path.dirname(dir));
    building = mkdtempSync(`${dir}.build-`);
  } catch (cause) {
    const message = `cannot write graphs to the cache folder ${cacheDir}; choose another with XDG_CACHE_HOME`;
    throw new RallyError("bad-settings", message, { field: "cacheDir", found: cacheDir }, { cause });
  }
  try {
    build(building);
    const files = Object.fromEntries(readdirSync(building).map((name) => [name, checksum(path.join(building, name))]));
    writeFileSync(path.join(building, MANIFEST), JSON.stringify({ files }));
    return moveInPlace(building, dir);
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
}

/** Another process may have been first, or what lies there is broken. */
function moveInPlace(building: string, dir: string): string {
  if (!placeFolder(building, dir) && !isWhole(dir)) mendFolder(building, dir, MANIFEST);
  return dir;
}

function isWhole(dir: string): boolean {
  try {
    const { files } = JSON.parse(readFileSync(path.join(dir, MANIFEST), "utf8")) as { files: Record<string, unknown> };
    const entries = Object.entries(files);
    return entries.length > 0 && entries.every(([name, sum]) => checksum(path.join(dir, name)) === sum);
  } catch {
    return false;
  }
}

function checksum(file: string): string {
  const descriptor = openSync(file, "r");
  try {
    const chunk = Buffer.allocUnsafe(1 << 20);
    let [sum, length] = [0, 0];
    for (let got = readSync(descriptor, chunk); got > 0; got = readSync(descriptor, chunk)) {
      sum = crc32(chunk.subarray(0, got), sum);
      length += got;
    }
    return `${length}-${sum.toString(16)}`;
  } finally {
    closeSync(descriptor);
  }
}

function removeStaleBuilds(parent: string): void {
  for (const name of readdirSync(parent)) {
    if (!name.includes(".build-")) continue;
    const dir = path.join(parent, name);
    // It may be gone by now, when another process does the same.
    const age = Date.now() - (statSync(dir, { throwIfNoEntry: false })?.mtimeMs ?? Infinity);
    if (age > STALE_BUILD_MS) rmSync(dir, { recursive: true, force: true });
  }
}
