import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, statfs, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { download, forgetPart, megabytes, mismatch, writeError } from "../download.ts";
import { RallyError } from "../errors.ts";
import { mendFolder, placeFolder } from "../place-folder.ts";
import { inScratch } from "../scratch.ts";
import { npmPack } from "./npm-pack.ts";
import { ORT_LIBRARY } from "./ort-library.ts";
import { MAIN_HEADER, type PinnedArchive, PINNED_RUNTIME, PROVIDER_LIBRARIES } from "./pins.ts";
import type { RuntimePin, RuntimeSource } from "./pins.ts";
import { findRuntime, type GpuRuntime, MANIFEST, runtimeFolder, type RuntimeManifest } from "./runtime.ts";

const run = promisify(execFile);
const TAR_OPTIONS = ["--no-same-owner", "--wildcards", "--no-wildcards-match-slash"];

export interface SetupOptions {
  readonly cacheDir: string;
  /** The library that onnxruntime-node brings. The provider looks for its runtime, and is looked for, in one folder. */
  readonly ortLibrary: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: (text: string) => void;
  readonly signal?: AbortSignal;
  readonly pin?: RuntimePin;
}

/**
 * Puts ONNX Runtime's CUDA provider and C headers into the cache folder unless they are there already, whole and right. RallyError
 * `hash-mismatch`, `fetch-failed`, `no-disk-space`, `cancelled`, or `provider-unavailable` where none is built for this platform.
 */
export async function setUpRuntime(
  options: SetupOptions,
): Promise<{ readonly runtime: GpuRuntime; readonly fetched: boolean }> {
  const { cacheDir, progress, pin = PINNED_RUNTIME } = options;
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== pin.platform) {
    const message = `ONNX Runtime's CUDA provider is built for ${pin.platform}, this is ${platform}`;
    throw new RallyError("provider-unavailable", message, { found: platform, expected: pin.platform });
  }
  const folder = runtimeFolder(cacheDir, pin);
  if (await isIntact(folder)) {
    const runtime = findRuntime(cacheDir, pin);
    if (runtime !== undefined) return { runtime, fetched: false };
  }
  const failures: RallyError[] = [];
  for (const source of pin.sources) {
    try {
      await inScratch(cacheDir, async (scratch) => {
        await checkRoom(cacheDir, source);
        await moveInPlace(await build(source, scratch, options, pin), folder);
      });
      const runtime = findRuntime(cacheDir, pin);
      if (runtime === undefined) continue;
      for (const { archives } of pin.sources) for (const { sha256 } of archives) await forgetPart(cacheDir, sha256);
      return { runtime, fetched: true };
    } catch (thrown) {
      const error = RallyError.from(writeError(thrown, cacheDir));
      // Another source would not help.
      if (error.code !== "fetch-failed" && error.code !== "hash-mismatch") throw error;
      failures.push(error);
      progress(`${source.name} not available (${error.message})`);
    }
  }
  throw nothing(pin, failures);
}

/** Another process may have been faster, or what lies there is damaged; processes that use it keep what they have open. */
async function moveInPlace(built: string, folder: string): Promise<void> {
  if (placeFolder(built, folder) || (await isIntact(folder))) return;
  mendFolder(built, folder, MANIFEST);
}

async function build(source: RuntimeSource, scratch: string, options: SetupOptions, pin: RuntimePin): Promise<string> {
  const built = path.join(scratch, "built");
  const files: Record<string, { bytes: number; sha256: string }> = {};
  const add = async (from: string, kind: "lib" | "include", name: string) => {
    const target = path.join(built, kind, name);
    await (from === options.ortLibrary ? copyFile(from, target) : rename(from, target));
    files[`${kind}/${name}`] = { bytes: (await stat(target)).size, sha256: await hashOf(target) };
  };
  for (const kind of ["lib", "include"]) await mkdir(path.join(built, kind), { recursive: true });
  for (const archive of source.archives) {
    const unpacked = await inScratch(scratch, (work) => fetchAndUnpack(archive, work, scratch, options));
    for (const file of await readdir(unpacked, { recursive: true, withFileTypes: true })) {
      if (file.isFile()) await add(path.join(file.parentPath, file.name), kindOf(file.name), file.name);
    }
  }
  for (const name of [...PROVIDER_LIBRARIES, MAIN_HEADER]) {
    if (files[`${kindOf(name)}/${name}`] !== undefined) continue;
    throw new RallyError("fetch-failed", `${source.name}: there is no ${name} in it`, { file: name });
  }
  await add(options.ortLibrary, "lib", ORT_LIBRARY);
  const manifest: RuntimeManifest = { version: pin.version, source: source.name, files };
  await writeFile(path.join(built, MANIFEST), JSON.stringify(manifest));
  return built;
}

function kindOf(name: string): "lib" | "include" {
  return name.endsWith(".h") ? "include" : "lib";
}

/** Resolves with the folder of what was taken out of the archive; the archive itself is gone then. */
async function fetchAndUnpack(
  archive: PinnedArchive,
  work: string,
  scratch: string,
  options: SetupOptions,
): Promise<string> {
  const { cacheDir: folder, env, signal } = options;
  const progress = (text: string) => options.progress(`CUDA provider: ${text}`);
  const cancel = signal === undefined ? {} : { signal };
  const { from, sha256 } = archive;
  let file: string;
  if ("url" in from) {
    file = await download({
      url: from.url,
      sha256,
      name: "CUDA provider",
      folder,
      progress: options.progress,
      ...cancel,
    });
  } else {
    file = await npmPack({ spec: from.npm, bytes: from.bytes, folder: work, env, progress, ...cancel });
    const found = await hashOf(file);
    if (found !== sha256) throw mismatch(from.npm, found, sha256);
  }
  try {
    progress(`unpacking ${megabytes((await stat(file)).size)} MB`);
    const unpacked = path.join(scratch, sha256.slice(0, 16));
    await mkdir(unpacked);
    const members = [...archive.libraries, ...archive.headers];
    await run("tar", ["-xzf", file, "-C", unpacked, ...TAR_OPTIONS, ...members], cancel);
    return unpacked;
  } catch (thrown) {
    throw tarError(thrown, file, options);
  } finally {
    await rm(file, { force: true });
  }
}

function tarError(thrown: unknown, file: string, { cacheDir, signal }: SetupOptions): unknown {
  if (signal?.aborted === true) return new RallyError("cancelled", "interrupted");
  const text = thrown instanceof Error && "stderr" in thrown ? String(thrown.stderr) : "";
  if (text.includes("No space left")) return writeError(Object.assign(new Error(text), { code: "ENOSPC" }), cacheDir);
  if (text === "") return thrown;
  return new RallyError("fetch-failed", `${file}: ${text.slice(0, 400)}`, { file }, { cause: thrown });
}

async function checkRoom(folder: string, { roomBytes, name }: RuntimeSource): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const free = bavail * bsize;
  if (free >= roomBytes) return;
  throw new RallyError(
    "no-disk-space",
    `${folder} has ${megabytes(free)} MB free, and fetching the CUDA provider (${name}) takes ${megabytes(roomBytes)} MB; make room, or choose another folder with XDG_CACHE_HOME`,
    { folder, freeBytes: free, neededBytes: roomBytes },
  );
}

async function isIntact(folder: string): Promise<boolean> {
  try {
    const { files } = JSON.parse(await readFile(path.join(folder, MANIFEST), "utf8")) as RuntimeManifest;
    for (const [name, { sha256 }] of Object.entries(files)) {
      if ((await hashOf(path.join(folder, name))) !== sha256) return false;
    }
    return true;
  } catch {
    return false;
  }
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function nothing({ version }: RuntimePin, failures: readonly RallyError[]): RallyError {
  const code = failures.some((failure) => failure.code === "hash-mismatch") ? "hash-mismatch" : "fetch-failed";
  const tried = failures.map(({ message }) => message);
  return new RallyError(
    code,
    [
      `the CUDA provider of ONNX Runtime ${version} could not be fetched. Tried:`,
      ...tried.map((line) => `  - ${line}`),
    ].join("\n"),
    { tried: tried.join("; ") },
  );
}
