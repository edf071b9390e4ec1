import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { installedOrt } from "../../../infra/gpu/ort-library.ts";
import { PINNED_RUNTIME, type RuntimePin } from "../../../infra/gpu/pins.ts";
import { findRuntime, runtimeFolder } from "../../../infra/gpu/runtime.ts";
import { setUpRuntime } from "../../../infra/gpu/setup.ts";
import { FileServer, sendFile } from "../../support/file-server.ts";

/** Both sources as they are, only smaller, on a server of our own: an archive of the release, and a registry that the real npm asks. */
const CUDA = "libonnxruntime_providers_cuda.so";
const SHARED = "libonnxruntime_providers_shared.so";
const HEADER = "onnxruntime_c_api.h";

let dir: string;
let cacheDir: string;
let server: FileServer;
let pin: RuntimePin;
let files: Map<string, Buffer>;
let progress: string[];

beforeEach(async () => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  cacheDir = path.join(dir, "cache");
  progress = [];
  files = new Map();
  server = await FileServer.start((asked, from, response) => answer(asked, from, response));
  const release = archive("release", {
    [`onnxruntime-linux-x64-gpu-9.9.9/lib/${CUDA}`]: "provider",
    [`onnxruntime-linux-x64-gpu-9.9.9/lib/${SHARED}`]: "bridge",
    "onnxruntime-linux-x64-gpu-9.9.9/lib/libonnxruntime.so.9.9.9": "not this one",
    [`onnxruntime-linux-x64-gpu-9.9.9/include/${HEADER}`]: "header",
    "onnxruntime-linux-x64-gpu-9.9.9/include/core/deeper.h": "not this one",
  });
  files.set("/release.tgz", release.content);
  const providers = npmPackage("rally-test-providers", {
    [`lib/${CUDA}`]: "npm provider",
    [`lib/${SHARED}`]: "bridge",
  });
  const headers = npmPackage("rally-test-headers", { [`Headers/${HEADER}`]: "npm header" });
  pin = {
    version: "9.9.9",
    platform: `${process.platform}-${process.arch}`,
    sources: [
      {
        name: "official release",
        roomBytes: 1000,
        archives: [
          {
            from: { url: `${server.url}/release.tgz` },
            sha256: release.sha256,
            libraries: [`*/lib/${CUDA}`, `*/lib/${SHARED}`],
            headers: ["*/include/*.h"],
          },
        ],
      },
      {
        name: "npm packages",
        roomBytes: 1000,
        archives: [
          { ...providers, libraries: [`package/lib/${CUDA}`, `package/lib/${SHARED}`], headers: [] },
          { ...headers, libraries: [], headers: ["package/Headers/*.h"] },
        ],
      },
    ],
  };
  writeFileSync(path.join(dir, "libonnxruntime.so.1"), "runtime");
});
afterEach(() => {
  server.stop();
  rmSync(dir, { recursive: true });
});

function answer(asked: string, from: number, response: ServerResponse): void {
  const content = files.get(asked);
  if (content === undefined) response.writeHead(404, { "content-type": "application/json" }).end("{}");
  else sendFile(response, content, from);
}

function archive(name: string, members: Readonly<Record<string, string>>) {
  const folder = path.join(dir, name);
  for (const [member, text] of Object.entries(members)) {
    mkdirSync(path.dirname(path.join(folder, member)), { recursive: true });
    writeFileSync(path.join(folder, member), text);
  }
  execFileSync("tar", ["-czf", `${folder}.tgz`, "-C", folder, ...readdirSync(folder)]);
  const content = readFileSync(`${folder}.tgz`);
  return { content, sha256: createHash("sha256").update(content).digest("hex") };
}

function npmPackage(name: string, members: Readonly<Record<string, string>>) {
  const manifest = JSON.stringify({ name, version: "1.0.0" });
  const inPackage = Object.entries({ ...members, "package.json": manifest }).map(([file, text]) => [
    `package/${file}`,
    text,
  ]);
  const { content, sha256 } = archive(name, Object.fromEntries(inPackage) as Record<string, string>);
  const tarball = `${server.url}/${name}.tgz`;
  const dist = { tarball, shasum: createHash("sha1").update(content).digest("hex") };
  const version = { name, version: "1.0.0", dist };
  files.set(
    `/${name}`,
    Buffer.from(JSON.stringify({ name, "dist-tags": { latest: "1.0.0" }, versions: { "1.0.0": version } })),
  );
  files.set(`/${name}.tgz`, content);
  return { from: { npm: `${name}@1.0.0`, bytes: content.length }, sha256 };
}

function setUp(options: { readonly pin?: RuntimePin; readonly signal?: AbortSignal } = {}) {
  return setUpRuntime({
    cacheDir,
    ortLibrary: path.join(dir, "libonnxruntime.so.1"),
    env: { ...process.env, npm_config_registry: server.url },
    progress: (text) => void progress.push(text),
    pin,
    ...options,
  });
}

const text = (...names: string[]) => readFileSync(path.join(runtimeFolder(cacheDir, pin), ...names), "utf8");
const askedFor = () => server.asked.map((asked) => asked.path);

describe("setUpRuntime", () => {
  it("takes the official release, with the runtime beside the provider, and does it once", async () => {
    const { runtime, fetched } = await setUp();
    expect([fetched, runtime.version, runtime.source]).toEqual([true, "9.9.9", "official release"]);
    expect(readdirSync(runtime.libraryFolder).toSorted()).toEqual(["libonnxruntime.so.1", CUDA, SHARED]);
    expect(readdirSync(runtime.headerFolder)).toEqual([HEADER]);
    expect([text("lib", CUDA), text("lib", "libonnxruntime.so.1")]).toEqual(["provider", "runtime"]);
    expect(readdirSync(cacheDir)).toEqual([path.basename(runtimeFolder(cacheDir, pin))]);
    expect(await setUp()).toEqual({ runtime, fetched: false });
    expect(askedFor()).toEqual(["/release.tgz"]);
    expect(progress.join("\n")).toContain("CUDA provider: fetching http://127.0.0.1");
  });

  it("takes the npm packages, by npm itself, where the release cannot be reached", async () => {
    files.delete("/release.tgz");
    const { runtime } = await setUp();
    expect(runtime.source).toBe("npm packages");
    expect([text("lib", CUDA), text("include", HEADER)]).toEqual(["npm provider", "npm header"]);
    expect(readdirSync(cacheDir)).toHaveLength(1);
    expect(progress.join("\n")).toMatch(/official release not available .*HTTP 404/);
  });

  it("takes nothing whose hash is wrong, from neither source", async () => {
    for (const name of ["/release.tgz", "/rally-test-providers.tgz"]) files.set(name, Buffer.from("something else"));
    // npm would refuse it by its own checksum; that of the registry fits here.
    const named = JSON.parse(String(files.get("/rally-test-providers"))) as {
      versions: { "1.0.0": { dist: { shasum: string } } };
    };
    named.versions["1.0.0"].dist.shasum = createHash("sha1").update("something else").digest("hex");
    files.set("/rally-test-providers", Buffer.from(JSON.stringify(named)));
    await expect(setUp()).rejects.toMatchObject({
      code: "hash-mismatch",
      message: expect.stringMatching(/could not be fetched[\s\S]*release\.tgz has SHA-256[\s\S]*rally-test-providers/),
    });
    expect(findRuntime(cacheDir, pin)).toBeUndefined();
    expect(readdirSync(cacheDir)).toEqual([]);
  });

  it("says what was tried where nothing can be reached", async () => {
    server.stop();
    await expect(setUp()).rejects.toMatchObject({
      code: "fetch-failed",
      message: expect.stringMatching(
        /release\.tgz: fetch failed[\s\S]*npm pack rally-test-providers@1\.0\.0: .*ECONNREFUSED/,
      ),
    });
  });

  it("asks for nothing when there is no room for it", async () => {
    const sources = pin.sources.map((source) => ({ ...source, roomBytes: 2 ** 60 }));
    await expect(setUp({ pin: { ...pin, sources } })).rejects.toMatchObject({
      code: "no-disk-space",
      message: expect.stringContaining("XDG_CACHE_HOME"),
      fields: { neededBytes: 2 ** 60 },
    });
    expect(server.asked).toEqual([]);
  });

  it("refuses an archive that lacks something", async () => {
    const [release] = pin.sources;
    const lacking = archive("lacking", {
      [`x/lib/${CUDA}`]: "provider",
      [`x/lib/${SHARED}`]: "bridge",
      "x/include/other.h": "",
    });
    files.set("/release.tgz", lacking.content);
    const archives = release?.archives.map((each) => ({ ...each, sha256: lacking.sha256 })) ?? [];
    const sources = [{ name: "official release", roomBytes: 1, archives }];
    await expect(setUp({ pin: { ...pin, sources } })).rejects.toMatchObject({
      code: "fetch-failed",
      message: expect.stringContaining(`there is no ${HEADER}`),
    });
  });

  it("fetches again what was damaged, and says so before it is used", async () => {
    const { runtime } = await setUp();
    writeFileSync(path.join(runtime.libraryFolder, CUDA), "providex");
    // Of the same size: seen by who looks at every byte, which takes too long for each start.
    expect(findRuntime(cacheDir, pin)).toEqual(runtime);
    expect((await setUp()).fetched).toBe(true);
    expect(text("lib", CUDA)).toBe("provider");
    writeFileSync(path.join(runtime.libraryFolder, CUDA), "");
    const damaged = expect.objectContaining({
      code: "provider-unavailable",
      message: expect.stringContaining("gpu setup"),
    });
    expect(() => findRuntime(cacheDir, pin)).toThrow(damaged);
    expect((await setUp()).fetched).toBe(true);
  });

  it("may be done by several at once", async () => {
    const all = await Promise.all([setUp(), setUp(), setUp()]);
    expect(new Set(all.map(({ runtime }) => runtime.libraryFolder)).size).toBe(1);
    expect(readdirSync(cacheDir)).toHaveLength(1);
    expect((await setUp()).fetched).toBe(false);
  });

  it("may be mended by several at once", async () => {
    const { runtime } = await setUp();
    for (let round = 0; round < 20; round++) {
      writeFileSync(path.join(runtime.libraryFolder, CUDA), "damaged!");
      await Promise.all(Array.from({ length: 4 }, () => setUp()));
      expect(text("lib", CUDA)).toBe("provider");
      expect((await setUp()).fetched).toBe(false);
    }
    expect(readdirSync(cacheDir)).toHaveLength(1);
  });

  it("ends when told to", async () => {
    await expect(setUp({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "cancelled" });
    expect(findRuntime(cacheDir, pin)).toBeUndefined();
  });

  it("refuses a platform that nothing is built for", async () => {
    await expect(setUp({ pin: { ...pin, platform: "sunos-sparc" } })).rejects.toMatchObject({
      code: "provider-unavailable",
      fields: { expected: "sunos-sparc" },
    });
  });
});

it("pins the very version of onnxruntime-node", () => {
  expect(PINNED_RUNTIME.version).toBe(installedOrt().version);
  for (const { archives } of PINNED_RUNTIME.sources) {
    for (const { sha256 } of archives) expect(sha256).toMatch(/^[\da-f]{64}$/);
  }
});
