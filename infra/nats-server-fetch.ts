import { execFile } from "node:child_process";
import { chmod, mkdir, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { download } from "./download.ts";
import { RallyError } from "./errors.ts";
import { inScratch } from "./scratch.ts";

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

const APT_MS = 120_000;

/** Puts the release's binary into the cache folder and answers with its path. */
export async function fetchRelease(release: NatsRelease, { cacheDir, progress }: FetchOptions): Promise<string> {
  const platform = `${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`;
  const expected = release.sha256[platform];
  if (expected === undefined) throw unavailable(`no release is pinned for ${platform}`);
  const name = `nats-server-v${release.version}-${platform}`;
  const url = `${release.baseUrl}/v${release.version}/${name}.tar.gz`;
  const archive = await download({ url, sha256: expected, name: "nats-server", folder: cacheDir, progress });
  try {
    return await inScratch(cacheDir, async (scratch) => {
      await run("tar", ["-xzf", archive], { cwd: scratch });
      return await install(
        path.join(scratch, name, "nats-server"),
        path.join(cacheDir, `nats-server-v${release.version}`),
      );
    });
  } finally {
    await rm(archive, { force: true });
  }
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

/** Renaming is atomic: another process sees the whole binary or none. */
async function install(from: string, to: string): Promise<string> {
  await chmod(from, 0o755);
  await rename(from, to);
  return to;
}

function unavailable(message: string): RallyError {
  return new RallyError("server-unavailable", message);
}
