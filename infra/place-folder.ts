import { lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";

/** Moves a finished folder to where others look for it; they see all of it or nothing. False, and nothing moved, where there is one already. */
export function placeFolder(built: string, folder: string): boolean {
  try {
    renameSync(built, folder);
    return true;
  } catch (thrown) {
    if (lstatSync(folder, { throwIfNoEntry: false }) === undefined) throw thrown;
    return false;
  }
}

/**
 * Replaces what is broken in `folder` by the files of `built`, each with one rename and the manifest, which vouches for the rest, last.
 * The folder is never moved away: another process may have mended it a moment ago and be reading it.
 */
export function mendFolder(built: string, folder: string, manifest: string): void {
  const files = readdirSync(built, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(built, path.join(entry.parentPath, entry.name)))
    .filter((name) => name !== manifest);
  makeWay(folder, "folder");
  for (const name of [...files, manifest]) {
    const target = path.join(folder, name);
    makeWay(path.dirname(target), "folder");
    mkdirSync(path.dirname(target), { recursive: true });
    makeWay(target, "file");
    renameSync(path.join(built, name), target);
  }
}

/** Removes what can be no version of what belongs there. */
function makeWay(target: string, wanted: "file" | "folder"): void {
  const found = lstatSync(target, { throwIfNoEntry: false });
  if (found !== undefined && found.isDirectory() !== (wanted === "folder"))
    rmSync(target, { recursive: true, force: true });
}
