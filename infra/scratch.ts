import { mkdir, mkdtemp, readdir, rm, stat } from "node:fs/promises";
import path from "node:path";

/** A folder this old was left behind by a process that died. */
const STALE_MS = 24 * 60 * 60 * 1000;
const PREFIX = "scratch-";

/** Gives `work` an empty folder inside `folder`, on the same file system: what is finished is moved out of it with one rename. */
export async function inScratch<T>(folder: string, work: (scratch: string) => Promise<T>): Promise<T> {
  await mkdir(folder, { recursive: true });
  await removeStale(folder);
  const scratch = await mkdtemp(path.join(folder, PREFIX));
  try {
    return await work(scratch);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function removeStale(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith(PREFIX)) continue;
    const found = path.join(folder, name);
    // It may be gone by now, when another process does the same.
    const age = Date.now() - ((await stat(found).catch(() => undefined))?.mtimeMs ?? Infinity);
    if (age > STALE_MS) await rm(found, { recursive: true, force: true });
  }
}
