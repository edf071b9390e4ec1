import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";

export interface FoundLibrary {
  readonly name: string;
  readonly file: string;
  /** Whether the dynamic loader finds it by itself, in LD_LIBRARY_PATH or its cache. */
  readonly isKnown: boolean;
}

/** What a search asks of the machine. */
export interface LibraryPorts {
  readonly env: NodeJS.ProcessEnv;
  readonly exists: (file: string) => boolean;
  /** Names in a folder; none if there is no such folder. */
  readonly list: (folder: string) => readonly string[];
  /** What `ldconfig -p` prints. */
  readonly loaderCache: () => string;
}

export function systemLibraryPorts(env: NodeJS.ProcessEnv): LibraryPorts {
  return { env, exists: existsSync, list: listFolder, loaderCache };
}

/** Looks where the loader looks, then where NVIDIA's installers and wheels put things that the loader does not know. */
export function findLibraries(names: readonly string[], ports: LibraryPorts): FoundLibrary[] {
  const { env, exists } = ports;
  const known = (env["LD_LIBRARY_PATH"] ?? "").split(":").filter((folder) => folder !== "");
  const cached = readLoaderCache(ports.loaderCache());
  const others = otherFolders(ports);
  return names.flatMap((name): FoundLibrary[] => {
    const inPath = known.map((folder) => path.join(folder, name)).find(exists) ?? cached.get(name);
    if (inPath !== undefined) return [{ name, file: inPath, isKnown: true }];
    const file = others.map((folder) => path.join(folder, name)).find(exists);
    return file === undefined ? [] : [{ name, file, isKnown: false }];
  });
}

function otherFolders({ env, list }: LibraryPorts): string[] {
  const toolkits = list("/usr/local")
    .filter((name) => /^cuda(-13(\.\d+)?)?$/.test(name))
    .map((name) => `/usr/local/${name}`);
  const roots = [env["CUDA_HOME"], env["CUDA_PATH"], ...toolkits].filter((root) => root !== undefined && root !== "");
  // The last two are where containers and WSL mount the driver.
  const installed = [...roots.map((root) => `${root}/lib64`), "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"];
  const home = env["HOME"] ?? os.homedir();
  const pythons = [env["VIRTUAL_ENV"], "/usr/local", "/usr", path.join(home, ".local")]
    .filter((root) => root !== undefined && root !== "")
    .flatMap((root) => subfolders({ list }, `${root}/lib`, /^python3/));
  const sites = pythons.flatMap((python) => subfolders({ list }, python, /^(site|dist)-packages$/));
  return [
    ...installed,
    ...sites.flatMap((site) => subfolders({ list }, `${site}/nvidia`, /./).map((dir) => `${dir}/lib`)),
  ];
}

function subfolders({ list }: Pick<LibraryPorts, "list">, folder: string, pattern: RegExp): string[] {
  return list(folder)
    .filter((name) => pattern.test(name))
    .map((name) => path.join(folder, name));
}

function readLoaderCache(text: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const [, name = "", kind = "", file = ""] of text.matchAll(/^\s*(\S+) \(([^)]*)\) => (\S+)$/gm)) {
    if (kind.includes("x86-64") && !found.has(name)) found.set(name, file);
  }
  return found;
}

function loaderCache(): string {
  // Ordinary users do not have sbin in their PATH.
  for (const file of ["/sbin/ldconfig", "/usr/sbin/ldconfig"]) {
    try {
      return execFileSync(file, ["-p"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    } catch {
      // Not there.
    }
  }
  return "";
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder).toSorted();
  } catch {
    return [];
  }
}
