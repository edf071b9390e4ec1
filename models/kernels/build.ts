import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, rename } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { RallyError } from "../../infra/errors.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { packageRoot } from "../../infra/own-file.ts";
import { inScratch } from "../../infra/scratch.ts";

const run = promisify(execFile);

const SOURCES = path.join(packageRoot, "models", "kernels");
const OPERATORS = path.join(SOURCES, "ops");
const LIBRARY = "librally_kernels.so";
/** Hopper's own instructions are not part of what newer GPUs run, so there is code for it alone. */
const ARCHITECTURE = ["-gencode=arch=compute_90a,code=sm_90a"];
const COMPILE = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", ...ARCHITECTURE];
/** With CUDA's runtime inside it loads on any machine. ONNX Runtime would unload it with each session. */
const LINK = ["-shared", "-cudart=static", "-Xlinker=-z,nodelete,-z,defs,--exclude-libs,ALL", ...ARCHITECTURE];
/** nvcc takes minutes, but not hours. */
const LIMIT_MS = 30 * 60_000;

export interface BuildKernelsOptions {
  readonly cacheDir: string;
  /** Where ONNX Runtime's C headers are. */
  readonly headerFolder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: (text: string) => void;
}

/** Where the library of operators is, or would be, once built from these very sources for this very ONNX Runtime. */
export function kernelsFile(cacheDir: string): string {
  const hash = createHash("sha256").update(JSON.stringify([installedOrt().version, COMPILE, LINK]));
  for (const file of [...sources(SOURCES, /\.(cu|h)$/), ...sources(OPERATORS, /\.(cc|h)$/)]) {
    hash.update(`${path.relative(SOURCES, file)}\n`).update(readFileSync(file));
  }
  return path.join(cacheDir, `kernels-${hash.digest("hex").slice(0, 16)}`, LIBRARY);
}

/** The library, for `customOpLibraries`. RallyError `provider-unavailable` if it has not been built. */
export function requireKernels(cacheDir: string): string {
  const file = kernelsFile(cacheDir);
  if (existsSync(file)) return file;
  const message = `the CUDA kernels are not there (${file}): rally gpu setup builds them, with CUDA's compiler nvcc`;
  throw new RallyError("provider-unavailable", message, { file });
}

/**
 * Compiles the CUDA kernels and their operators unless that is done. RallyError `provider-unavailable` where there is no nvcc, or one
 * that does not build for compute capability 9.0.
 */
export async function buildKernels({ cacheDir, headerFolder, env, progress }: BuildKernelsOptions): Promise<string> {
  const file = kernelsFile(cacheDir);
  if (existsSync(file)) return file;
  const nvcc = await findNvcc(env);
  const all = [...sources(SOURCES, /\.cu$/), ...sources(OPERATORS, /\.cc$/)];
  await inScratch(cacheDir, async (scratch) => {
    const built = path.join(scratch, "kernels");
    await mkdir(built);
    const waiting = all.map((source, i) => ({ source, object: path.join(scratch, `${i}.o`) }));
    const objects = waiting.map(({ object }) => object);
    let numDone = 0;
    // One that fails ends the others.
    const failed = new AbortController();
    const compile = async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        progress(`CUDA kernels: compiling with ${nvcc} (${numDone} of ${all.length} files done)`);
        const { source, object } = next;
        const args = [...COMPILE, "-isystem", headerFolder, "-I", SOURCES, "-c", "-o", object, source];
        try {
          await call(nvcc, args, env, failed.signal);
        } catch (thrown) {
          failed.abort();
          throw thrown;
        }
        numDone++;
      }
    };
    await Promise.all(Array.from({ length: Math.min(os.availableParallelism(), all.length) }, compile));
    await call(nvcc, [...LINK, "-o", path.join(built, LIBRARY), ...objects], env, failed.signal);
    // Atomic: others see all of it or nothing. Somebody else may have been faster.
    await rename(built, path.dirname(file)).catch((error: unknown) => {
      if (!existsSync(file)) throw error;
    });
  });
  return file;
}

async function call(nvcc: string, args: readonly string[], env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<void> {
  try {
    await run(nvcc, [...args], { env, signal, timeout: LIMIT_MS, maxBuffer: 2 ** 26 });
  } catch (cause) {
    const text = cause instanceof Error && "stderr" in cause ? String(cause.stderr) : String(cause);
    throw unavailable(`${nvcc} did not compile them: ${text.slice(0, 2000)}`, cause);
  }
}

function sources(folder: string, pattern: RegExp): string[] {
  const names = readdirSync(folder).filter((name) => pattern.test(name));
  return names.toSorted().map((name) => path.join(folder, name));
}

/** Where NVIDIA's installers put it, they do not put it into PATH. */
async function findNvcc(env: NodeJS.ProcessEnv): Promise<string> {
  const chosen = env["NVCC"];
  const roots = [env["CUDA_HOME"], env["CUDA_PATH"], "/usr/local/cuda", ...toolkits()];
  const installed = roots.filter((root) => root !== undefined && root !== "").map((root) => `${root}/bin/nvcc`);
  const candidates = chosen === undefined || chosen === "" ? ["nvcc", ...new Set(installed)] : [chosen];
  for (const nvcc of candidates) {
    try {
      await run(nvcc, ["--version"], { env });
      return nvcc;
    } catch {
      // Not there.
    }
  }
  const advice =
    "install CUDA 13's compiler (with NVIDIA's repository: apt-get install cuda-nvcc-13-0), or name it in NVCC";
  throw unavailable(`there is no nvcc (${candidates.join(", ")}): ${advice}`);
}

/** The newest first. */
function toolkits(): string[] {
  const root = "/usr/local";
  if (!existsSync(root)) return [];
  const names = readdirSync(root).filter((name) => /^cuda-\d+(\.\d+)?$/.test(name));
  return names.toSorted((a, b) => Number(b.slice(5)) - Number(a.slice(5))).map((name) => path.join(root, name));
}

function unavailable(reason: string, cause?: unknown): RallyError {
  return new RallyError("provider-unavailable", `the CUDA kernels could not be built: ${reason}`, {}, { cause });
}
