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
const COMPILE = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden"];
/** With CUDA's runtime inside it loads on any machine. ONNX Runtime would unload it with each session. */
const LINK = ["-shared", "-cudart=static", "-Xlinker=-z,nodelete,-z,defs,--exclude-libs,ALL"];
/** Operators whose kernels Hopper alone can run. */
export const HOPPER_ONLY = ["all-operators.cc", "attention-ops.cc", "expert-ops.cc", "head-ops.cc", "sizes.cc"];

/** A library of operators: those with Hopper's own instructions, or those in f32, which run on any GPU. */
export const KERNEL_KINDS = ["hopper", "f32"] as const;
export type KernelKind = (typeof KERNEL_KINDS)[number];

interface KernelLibrary {
  readonly name: string;
  readonly architecture: readonly string[];
  /** What is compiled, and the headers beside it. */
  readonly sources: readonly string[];
}

function libraryOf(kind: KernelKind): KernelLibrary {
  const operators = sources(OPERATORS, /\.(cc|h)$/);
  if (kind === "hopper") {
    // Hopper's own instructions are not part of what newer GPUs run, so there is code for it alone.
    const architecture = ["-gencode=arch=compute_90a,code=sm_90a"];
    return { name: "librally_kernels.so", architecture, sources: [...sources(SOURCES, /\.(cu|h)$/), ...operators] };
  }
  const shared = operators.filter((file) => !HOPPER_ONLY.includes(path.basename(file)));
  return {
    name: "librally_f32.so",
    // The driver makes code of the first for GPUs that there is none for.
    architecture: ["-gencode=arch=compute_75,code=compute_75", "-gencode=arch=compute_90,code=sm_90"],
    sources: [...sources(path.join(SOURCES, "f32"), /\.(cu|cc|h)$/), path.join(SOURCES, "kernels.h"), ...shared],
  };
}

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
export function kernelsFile(cacheDir: string, kind: KernelKind = "hopper"): string {
  const library = libraryOf(kind);
  const { version } = installedOrt();
  const hash = createHash("sha256").update(JSON.stringify([version, COMPILE, LINK, library.architecture]));
  for (const file of library.sources) hash.update(`${path.relative(SOURCES, file)}\n`).update(readFileSync(file));
  return path.join(cacheDir, `kernels-${hash.digest("hex").slice(0, 16)}`, library.name);
}

/** The library, for `customOpLibraries`. RallyError `provider-unavailable` if it has not been built. */
export function requireKernels(cacheDir: string, kind: KernelKind = "hopper"): string {
  const file = kernelsFile(cacheDir, kind);
  if (existsSync(file)) return file;
  const message = `the CUDA kernels are not there (${file}): rally gpu setup builds them, with CUDA's compiler nvcc`;
  throw new RallyError("provider-unavailable", message, { file });
}

/**
 * Compiles the CUDA kernels and their operators unless that is done. RallyError `provider-unavailable` where there is no nvcc, or one
 * that does not build for these GPUs.
 */
export async function buildKernels(options: BuildKernelsOptions, kind: KernelKind = "hopper"): Promise<string> {
  const { cacheDir, headerFolder, env, progress } = options;
  const file = kernelsFile(cacheDir, kind);
  if (existsSync(file)) return file;
  const nvcc = await findNvcc(env);
  const { name, architecture, sources: files } = libraryOf(kind);
  const all = files.filter((source) => !source.endsWith(".h"));
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
        const includes = ["-isystem", headerFolder, "-I", SOURCES];
        const args = [...COMPILE, ...architecture, ...includes, "-c", "-o", object, source];
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
    await call(nvcc, [...LINK, ...architecture, "-o", path.join(built, name), ...objects], env, failed.signal);
    // Atomic: others see all of it or nothing. Somebody else may have been faster.
    await rename(built, path.dirname(file)).catch((error: unknown) => {
      if (!existsSync(file)) throw error;
    });
  });
  return file;
}

/** Both libraries; the path is that of Hopper's. */
export async function buildAllKernels(options: BuildKernelsOptions): Promise<string> {
  await buildKernels(options, "f32");
  return await buildKernels(options, "hopper");
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
