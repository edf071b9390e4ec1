import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { RallyError } from "./errors.ts";

const run = promisify(execFile);

/** An official release. Nothing beyond nats-server 2.9.10 is relied upon, so the last of that line is taken. */
export interface NatsRelease {
  readonly version: string;
  readonly baseUrl: string;
  /** Of `nats-server-v<version>-<platform>.tar.gz`. */
  readonly sha256: Readonly<Record<string, string>>;
}

export const PINNED_RELEASE: NatsRelease = {
  version: "2.9.25",
  baseUrl: "https://github.com/nats-io/nats-server/releases/download",
  sha256: {
    "linux-amd64": "2da5e9ba29ec29a5e44775c1cfe8ade6e3506606b4b361276dfd8a08f273da99",
    "linux-arm64": "68551379667a0caffc5c5302f817b99b89c133077ca84b2cf72e1947a46e0e9e",
  },
};

export interface FetchOptions {
  readonly cacheDir: string;
  readonly progress: (text: string) => void;
}

const CONNECT_MS = 6000;
const STALL_MS = 15_000;
const APT_MS = 120_000;

/** Puts the release's binary into the cache folder and answers with its path. */
export async function fetchRelease(release: NatsRelease, { cacheDir, progress }: FetchOptions): Promise<string> {
  const platform = `${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`;
  const expected = release.sha256[platform];
  if (expected === undefined) throw unavailable(`no release is pinned for ${platform}`);
  const name = `nats-server-v${release.version}-${platform}`;
  const url = `${release.baseUrl}/v${release.version}/${name}.tar.gz`;
  progress(`nats-server: fetching ${url}`);
  const archive = await download(url, progress);
  const found = createHash("sha256").update(archive).digest("hex");
  if (found !== expected) throw unavailable(`${url} has SHA-256 ${found}, expected ${expected}: not used`);
  return await inScratch(cacheDir, async (scratch) => {
    await writeFile(path.join(scratch, "archive.tar.gz"), archive);
    await run("tar", ["-xzf", "archive.tar.gz"], { cwd: scratch });
    return await install(
      path.join(scratch, name, "nats-server"),
      path.join(cacheDir, `nats-server-v${release.version}`),
    );
  });
}

/**
 * Debian's package, unpacked without installing it and without root. `apt-get` checks its signature. Where the machine has
 * no package lists they are fetched into a folder of our own.
 */
export async function fetchDebianPackage({ cacheDir, progress }: FetchOptions): Promise<string> {
  return await inScratch(cacheDir, async (scratch) => {
    progress("nats-server: fetching Debian's package with apt-get");
    const own = ["lists/partial", "cache/archives/partial"];
    for (const folder of own) await mkdir(path.join(scratch, folder), { recursive: true });
    const ownLists = [
      `-oDir::State::lists=${path.join(scratch, "lists")}`,
      `-oDir::Cache=${path.join(scratch, "cache")}`,
      "-oAcquire::http::Timeout=10",
      "-oAcquire::https::Timeout=10",
      "-oAcquire::Retries=1",
    ];
    const apt = async (...args: string[]): Promise<void> => {
      // Root would otherwise hand the download to a user who may not write here.
      await run("apt-get", ["-oAPT::Sandbox::User=root", ...args], {
        cwd: scratch,
        timeout: APT_MS,
        env: { ...process.env, LC_ALL: "C" },
      });
    };
    try {
      await apt("download", "nats-server");
    } catch {
      progress("nats-server: fetching Debian's package lists");
      // Fails when any one source does; whether the package can be had is seen at once.
      await apt(...ownLists, "update").catch(() => {});
      await apt(...ownLists, "download", "nats-server");
    }
    const file = (await readdir(scratch)).find((name) => name.startsWith("nats-server_") && name.endsWith(".deb"));
    if (file === undefined) throw unavailable("apt-get downloaded no nats-server package");
    await run("dpkg-deb", ["-x", file, "unpacked"], { cwd: scratch });
    const version = /^nats-server_([^_]*)/.exec(file)?.[1] ?? "unknown";
    const target = path.join(cacheDir, `nats-server-debian-${version.replace(/[^\w.+-]/g, "_")}`);
    return await install(path.join(scratch, "unpacked/usr/sbin/nats-server"), target);
  });
}

async function download(url: string, progress: (text: string) => void): Promise<Buffer> {
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(new Error(`no answer within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
  try {
    const response = await fetch(url, { signal: abort.signal });
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    const total = Number(response.headers.get("content-length") ?? 0);
    const chunks: Uint8Array[] = [];
    let received = 0;
    let reported = 0;
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error(`stalled for ${STALL_MS / 1000} s`)), STALL_MS);
      chunks.push(chunk);
      received += chunk.length;
      if (total > 0 && received - reported > total / 4) {
        reported = received;
        progress(`nats-server: ${megabytes(received)} of ${megabytes(total)} MB`);
      }
    }
    return Buffer.concat(chunks);
  } catch (error) {
    const reason = abort.signal.aborted ? abort.signal.reason : error;
    const cause = reason instanceof Error && reason.cause instanceof Error ? `: ${reason.cause.message}` : "";
    throw unavailable(`${url}: ${reason instanceof Error ? reason.message : String(reason)}${cause}`);
  } finally {
    clearTimeout(timer);
  }
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

async function inScratch(cacheDir: string, work: (scratch: string) => Promise<string>): Promise<string> {
  await mkdir(cacheDir, { recursive: true });
  const scratch = await mkdtemp(path.join(cacheDir, "fetching-"));
  try {
    return await work(scratch);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Renaming is atomic: another process sees the whole binary or none. */
async function install(from: string, to: string): Promise<string> {
  await chmod(from, 0o755);
  await rename(from, to);
  return to;
}

function unavailable(message: string): RallyError {
  return new RallyError("server-unavailable", message);
}
