import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";

export interface Gpu {
  readonly name: string;
  /** Unknown where the driver tells without nvidia-smi. */
  readonly computeCapability?: number;
  readonly memoryMiB?: number;
}

export interface Nvidia {
  /** Undefined if no driver runs. */
  readonly driver: { readonly version: string; readonly source: string } | undefined;
  readonly gpus: readonly Gpu[];
}

/** What looking for a GPU asks of the machine. */
export interface NvidiaPorts {
  readonly run: (file: string, args: readonly string[]) => Promise<string>;
  /** Undefined if there is no such file. */
  readonly readText: (file: string) => string | undefined;
  readonly list: (folder: string) => readonly string[];
}

const execute = promisify(execFile);
/** A driver that hangs must not hang us. */
const LIMIT_MS = 15_000;
const SMI_FILES = [
  "nvidia-smi",
  "/usr/bin/nvidia-smi",
  "/usr/local/nvidia/bin/nvidia-smi",
  "/usr/lib/wsl/lib/nvidia-smi",
];
const FIELDS = ["driver_version", "name", "compute_cap", "memory.total"];

const systemNvidiaPorts: NvidiaPorts = {
  run: async (file, args) => (await execute(file, [...args], { timeout: LIMIT_MS })).stdout,
  readText(file) {
    try {
      return readFileSync(file, "utf8");
    } catch {
      return undefined;
    }
  },
  list(folder) {
    try {
      return readdirSync(folder);
    } catch {
      return [];
    }
  },
};

/** nvidia-smi knows best; where it is missing, as in slim containers, the kernel module's own files tell less. */
export async function findNvidia(ports: NvidiaPorts = systemNvidiaPorts): Promise<Nvidia> {
  for (const file of SMI_FILES) {
    try {
      const text = await ports.run(file, [`--query-gpu=${FIELDS.join(",")}`, "--format=csv,noheader,nounits"]);
      const found = readQuery(text);
      if (found !== undefined) return found;
    } catch {
      // Not there, or no driver for it to ask.
    }
  }
  const module = /Kernel Module(?: for \S+)?\s+(\d+[.\d]*)/.exec(ports.readText("/proc/driver/nvidia/version") ?? "");
  const folder = "/proc/driver/nvidia/gpus";
  const gpus = ports.list(folder).flatMap((gpu) => {
    const model = /^Model:\s*(.+)$/m.exec(ports.readText(`${folder}/${gpu}/information`) ?? "")?.[1];
    return model === undefined ? [] : [{ name: model.trim() }];
  });
  return { driver: module === null ? undefined : { version: module[1] ?? "", source: "/proc/driver/nvidia" }, gpus };
}

function readQuery(text: string): Nvidia | undefined {
  const rows = text
    .trim()
    .split("\n")
    .map((line) => line.split(",").map((cell) => cell.trim()))
    .filter((cells) => cells.length === FIELDS.length);
  const version = rows[0]?.[0];
  if (version === undefined || !/^\d+\./.test(version)) return undefined;
  const gpus = rows.map(([, name = "", capability, memory]) => ({
    name,
    ...number("computeCapability", capability),
    ...number("memoryMiB", memory),
  }));
  return { driver: { version, source: "nvidia-smi" }, gpus };
}

/** nvidia-smi writes [N/A] for what a GPU does not tell. */
function number<K extends string>(key: K, text: string | undefined): { readonly [key in K]?: number } {
  const value = Number(text);
  return (Number.isFinite(value) ? { [key]: value } : {}) as { readonly [key in K]?: number };
}
