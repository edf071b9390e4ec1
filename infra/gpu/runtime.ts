import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../errors.ts";
import { PINNED_RUNTIME, type RuntimePin } from "./pins.ts";

/** What `rally gpu setup` has put into the cache folder. */
export interface GpuRuntime {
  readonly version: string;
  /** Where it was fetched from, in words. */
  readonly source: string;
  /** ONNX Runtime and its CUDA provider, side by side, as it looks for it. */
  readonly libraryFolder: string;
  readonly headerFolder: string;
}

/** In the order of their paths: lib/…, include/…. */
export interface RuntimeManifest {
  readonly version: string;
  readonly source: string;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

export const MANIFEST = "manifest.json";

export function runtimeFolder(cacheDir: string, { version }: RuntimePin = PINNED_RUNTIME): string {
  return path.join(cacheDir, `onnxruntime-${version}-cuda13`);
}

/** Undefined if it is not there. RallyError `provider-unavailable` if it is there and not whole. */
export function findRuntime(cacheDir: string, pin: RuntimePin = PINNED_RUNTIME): GpuRuntime | undefined {
  const folder = runtimeFolder(cacheDir, pin);
  let manifest: RuntimeManifest;
  try {
    manifest = JSON.parse(readFileSync(path.join(folder, MANIFEST), "utf8")) as RuntimeManifest;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw broken(folder, MANIFEST);
  }
  for (const [name, { bytes }] of Object.entries(manifest.files)) {
    if (statSync(path.join(folder, name), { throwIfNoEntry: false })?.size !== bytes) throw broken(folder, name);
  }
  return {
    version: manifest.version,
    source: manifest.source,
    libraryFolder: path.join(folder, "lib"),
    headerFolder: path.join(folder, "include"),
  };
}

function broken(folder: string, name: string): RallyError {
  return new RallyError(
    "provider-unavailable",
    `${path.join(folder, name)} is damaged: rally gpu setup fetches it again`,
    { folder, file: name },
  );
}
