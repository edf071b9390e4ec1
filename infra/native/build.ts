import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, rename } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { RallyError } from "../errors.ts";
import { installedOrt } from "../gpu/ort-library.ts";
import { packageRoot } from "../own-file.ts";
import { inScratch } from "../scratch.ts";

const run = promisify(execFile);

const SOURCES = path.join(packageRoot, "infra", "native");
const FLAGS = [
  "-std=c++17",
  "-O2",
  "-fPIC",
  "-shared",
  "-fvisibility=hidden",
  "-pthread",
  "-Wall",
  "-Wextra",
  "-Werror",
];
const COMPILERS = ["c++", "g++", "clang++"];
/** Node-API is the same for all versions of Node.js, so one build serves them all. */
const NODE_HEADER = "node_api.h";

export interface BuildOptions {
  readonly cacheDir: string;
  /** Where ONNX Runtime's C headers are. */
  readonly headerFolder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: (text: string) => void;
}

/** Where the addon is, or would be, once built from these very sources for this very ONNX Runtime. */
export function addonFile(cacheDir: string): string {
  const hash = createHash("sha256").update(JSON.stringify([installedOrt().version, process.arch, FLAGS]));
  for (const name of sources(/\.(cc|h)$/)) hash.update(`${name}\n`).update(readFileSync(path.join(SOURCES, name)));
  return path.join(cacheDir, `addon-${hash.digest("hex").slice(0, 16)}`, "rally_ort.node");
}

/**
 * Compiles the addon unless it is there already. RallyError `provider-unavailable` where there is no C++ compiler or Node.js came
 * without its headers; nothing but the addon needs them.
 */
export async function buildAddon({ cacheDir, headerFolder, env, progress }: BuildOptions): Promise<string> {
  const file = addonFile(cacheDir);
  if (existsSync(file)) return file;
  const nodeHeaders = findNodeHeaders(env);
  const compiler = await findCompiler(env);
  progress(`addon: compiling with ${compiler}`);
  await inScratch(cacheDir, async (scratch) => {
    const built = path.join(scratch, "addon");
    await mkdir(built);
    const args = [
      ...FLAGS,
      "-isystem",
      headerFolder,
      "-isystem",
      nodeHeaders,
      "-o",
      path.join(built, path.basename(file)),
    ];
    try {
      await run(compiler, [...args, ...sources(/\.cc$/), "-ldl"], { cwd: SOURCES, env });
    } catch (cause) {
      const text = cause instanceof Error && "stderr" in cause ? String(cause.stderr) : String(cause);
      throw unavailable(`${compiler} did not compile it: ${text.slice(0, 2000)}`, cause);
    }
    // Atomic: others see all of it or nothing. Somebody else may have been faster.
    await rename(built, path.dirname(file)).catch((error: unknown) => {
      if (!existsSync(file)) throw error;
    });
  });
  return file;
}

function sources(pattern: RegExp): string[] {
  return readdirSync(SOURCES)
    .filter((name) => pattern.test(name))
    .toSorted();
}

/** Node.js' own archives have them beside it, distributions in a package of their own. */
function findNodeHeaders(env: NodeJS.ProcessEnv): string {
  const prefix = path.dirname(path.dirname(process.execPath));
  const own = env["npm_config_nodedir"];
  const roots = [...(own === undefined || own === "" ? [] : [own]), prefix, "/usr/local", "/usr"];
  const folders = roots.map((root) => path.join(root, "include", "node"));
  const found = folders.find((folder) => existsSync(path.join(folder, NODE_HEADER)));
  if (found !== undefined) return found;
  throw unavailable(
    `Node.js' C headers (${NODE_HEADER}) are in none of ${folders.join(", ")}: install them (Debian: libnode-dev), or Node.js from nodejs.org`,
  );
}

async function findCompiler(env: NodeJS.ProcessEnv): Promise<string> {
  const chosen = env["CXX"];
  const candidates = chosen === undefined || chosen === "" ? COMPILERS : [chosen];
  for (const compiler of candidates) {
    try {
      await run(compiler, ["--version"], { env });
      return compiler;
    } catch {
      // Not there.
    }
  }
  throw unavailable(`there is no C++ compiler (${candidates.join(", ")}): install one (Debian: g++)`);
}

function unavailable(reason: string, cause?: unknown): RallyError {
  return new RallyError("provider-unavailable", `the native addon could not be built: ${reason}`, {}, { cause });
}
