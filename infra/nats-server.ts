import { execFile } from "node:child_process";
import { accessSync, constants, readdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { RallyError } from "./errors.ts";
import { fetchDebianPackage, fetchRelease, PINNED_RELEASE, type NatsRelease } from "./nats-server-fetch.ts";
import { launchNatsServer, type LaunchOptions, type RunningNatsServer } from "./nats-server-process.ts";

export type { RunningNatsServer };

export interface NatsServerBinary {
  readonly path: string;
  readonly version: string;
  /** Where it was found, in words. */
  readonly source: string;
}

export interface FindOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Progress lines for a person to read. */
  readonly progress?: (text: string) => void;
  /** Whether to fetch it where it is nowhere to be found. */
  readonly fetch?: boolean;
  readonly release?: NatsRelease;
}

export interface StartOptions extends LaunchOptions, FindOptions {
  /** Found (or fetched) if not given. */
  readonly binary?: NatsServerBinary;
}

/** Older ones lack what the token log relies on. */
const OLDEST = [2, 9] as const;
/** Debian installs daemons where the PATH of ordinary users does not look. */
const DAEMON_FOLDERS = ["/usr/local/sbin", "/usr/sbin"];
const run = promisify(execFile);

/** Finds or fetches a nats-server. RallyError `server-unavailable` with everything that was tried. */
export async function findNatsServer(options: FindOptions = {}): Promise<NatsServerBinary> {
  const { env = process.env, progress = () => {}, release = PINNED_RELEASE } = options;
  const tried: string[] = [];
  const chosen = env["RALLY_NATS_SERVER"];
  if (chosen !== undefined && chosen !== "") {
    const binary = await inspect(chosen, "RALLY_NATS_SERVER", tried);
    if (binary !== undefined) return binary;
    throw nothing(tried);
  }

  const folders = [...new Set([...(env["PATH"] ?? "").split(path.delimiter), ...DAEMON_FOLDERS])];
  const onPath = folders.map((folder) => path.join(folder, "nats-server")).filter(isExecutable);
  if (onPath.length === 0) tried.push(`PATH: no nats-server in ${folders.join(", ")}`);
  for (const file of onPath) {
    const binary = await inspect(file, "PATH", tried);
    if (binary !== undefined) return binary;
  }

  const cacheDir = cacheFolder(env);
  const cached = listFolder(cacheDir).filter((name) => /^nats-server-(v|debian-)/.test(name));
  if (cached.length === 0) tried.push(`cache folder: no nats-server in ${cacheDir}`);
  for (const name of cached) {
    const binary = await inspect(path.join(cacheDir, name), "cache folder", tried);
    if (binary !== undefined) return binary;
  }

  if (options.fetch ?? true) {
    const ways = {
      "official release": () => fetchRelease(release, { cacheDir, progress }),
      "Debian package": () => fetchDebianPackage({ cacheDir, progress }),
    };
    for (const [source, fetchIt] of Object.entries(ways)) {
      try {
        const binary = await inspect(await fetchIt(), source, tried);
        if (binary === undefined) continue;
        progress(`nats-server: ${binary.version} is in ${cacheDir}`);
        return binary;
      } catch (error) {
        const reason = firstLines(error);
        tried.push(`${source}: ${reason}`);
        progress(`nats-server: ${source} not available (${reason})`);
      }
    }
  }
  throw nothing(tried);
}

/** Starts a nats-server with JetStream for this process alone: it ends when this process does, however that happens. */
export async function startNatsServer(options: StartOptions = {}): Promise<RunningNatsServer> {
  return await launchNatsServer(options.binary ?? (await findNatsServer(options)), options);
}

function cacheFolder(env: NodeJS.ProcessEnv): string {
  const base = env["XDG_CACHE_HOME"];
  return path.join(
    base === undefined || base === "" ? path.join(env["HOME"] ?? os.homedir(), ".cache") : base,
    "rally",
  );
}

async function inspect(file: string, source: string, tried: string[]): Promise<NatsServerBinary | undefined> {
  try {
    const { stdout, stderr } = await run(file, ["--version"], { timeout: 10_000 });
    const found = /v?(\d+)\.(\d+)\.(\d+\S*)/.exec(stdout + stderr);
    if (found === null) throw new Error(`"--version" answers ${JSON.stringify((stdout + stderr).slice(0, 80))}`);
    const [major, minor] = [Number(found[1]), Number(found[2])];
    if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
      throw new Error(`is version ${found[0]}, needed is ${OLDEST.join(".")} or newer`);
    }
    return { path: file, version: `${major}.${minor}.${found[3]}`, source };
  } catch (error) {
    tried.push(`${source}: ${file}: ${firstLines(error)}`);
    return undefined;
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder).toSorted().toReversed();
  } catch {
    return [];
  }
}

function firstLines(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.trim().split("\n").slice(0, 4).join(" ").slice(0, 400);
}

function nothing(tried: readonly string[]): RallyError {
  return new RallyError(
    "server-unavailable",
    [
      "no usable nats-server. Tried:",
      ...tried.map((line) => `  - ${line}`),
      "Install one (Debian: apt-get install nats-server; others: https://nats.io/download), name one with",
      "RALLY_NATS_SERVER=/path/to/nats-server, or use a server that runs already with NATS_URL=nats://host:4222.",
    ].join("\n"),
    { tried: tried.join("; ") },
  );
}
