import { fileURLToPath } from "node:url";
import path from "node:path";
import { existsSync } from "node:fs";

const here = path.dirname(fileURLToPath(import.meta.url));
/** The package's own folder: the parent of `infra/`, or of `dist/infra/` once compiled. */
export const packageRoot: string =
  path.basename(path.dirname(here)) === "dist" ? path.resolve(here, "../..") : path.resolve(here, "..");

/**
 * The compiled JavaScript of one of our modules, for worker threads and child processes, which cannot load TypeScript.
 * `modulePath` is relative to the package root without extension, e.g. `actors/expert/main`.
 */
export function compiledFile(modulePath: string): string {
  const file = path.join(packageRoot, "dist", `${modulePath}.js`);
  if (!existsSync(file)) throw new Error(`${file} is missing: run "npm run build"`);
  return file;
}
