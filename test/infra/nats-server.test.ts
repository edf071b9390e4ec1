import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { execFile } from "node:child_process";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { findNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import { startTestServer } from "../support/nats.ts";

const run = promisify(execFile);
let scratch: string;

beforeEach(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), "rally-test-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

/** An executable that answers `--version` and does nothing else. */
async function fakeServer(file: string, version: string): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `#!/bin/sh\necho "nats-server: v${version}"\n`);
  await chmod(file, 0o755);
}

const env = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  PATH: path.join(scratch, "bin"),
  XDG_CACHE_HOME: path.join(scratch, "cache"),
  ...more,
});

describe("findNatsServer", () => {
  it("takes RALLY_NATS_SERVER first, and nothing else when that is no good", async () => {
    const file = path.join(scratch, "mine/server");
    await fakeServer(file, "2.10.4");
    await fakeServer(path.join(scratch, "bin/nats-server"), "2.9.10");
    expect(await findNatsServer({ env: env({ RALLY_NATS_SERVER: file }) })).toEqual({
      path: file,
      version: "2.10.4",
      source: "RALLY_NATS_SERVER",
    });
    await expect(findNatsServer({ env: env({ RALLY_NATS_SERVER: `${file}x` }) })).rejects.toMatchObject({
      code: "server-unavailable",
      message: expect.stringContaining(`${file}x`),
    });
  });

  it("then PATH, then the cache folder, passing over versions that are too old", async () => {
    const onPath = path.join(scratch, "bin/nats-server");
    const cached = path.join(scratch, "cache/rally/nats-server-v2.9.25");
    await fakeServer(onPath, "2.9.10");
    await fakeServer(cached, "2.9.25");
    expect(await findNatsServer({ env: env() })).toMatchObject({ path: onPath, version: "2.9.10", source: "PATH" });
    await fakeServer(onPath, "2.8.4");
    const found = await findNatsServer({ env: env(), fetch: false });
    // A machine that has a nats-server installed outside PATH finds that before the cache.
    expect(existsSync("/usr/sbin/nats-server") ? "PATH" : "cache folder").toBe(found.source);
  });

  it("says everything that was tried and what to do", async () => {
    const old = path.join(scratch, "old");
    await fakeServer(old, "2.8.4");
    await expect(findNatsServer({ env: env({ RALLY_NATS_SERVER: old }), fetch: false })).rejects.toMatchObject({
      code: "server-unavailable",
      message: expect.stringMatching(/2\.8\.4.*needed is 2\.9[\s\S]*NATS_URL/),
    });
  });

  it.skipIf(existsSync("/usr/sbin/nats-server"))("fetches the pinned release, once", async () => {
    const name = `nats-server-v2.9.99-${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`;
    await fakeServer(path.join(scratch, "release", name, "nats-server"), "2.9.99");
    await run("tar", ["-czf", "archive.tar.gz", "-C", "release", name], { cwd: scratch });
    const archive = await readFile(path.join(scratch, "archive.tar.gz"));
    const asked: string[] = [];
    const server = http.createServer((request, response) => {
      asked.push(request.url ?? "");
      response.end(archive);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const address = server.address();
      const port = typeof address === "object" ? address?.port : 0;
      const platform = name.slice("nats-server-v2.9.99-".length);
      const release = { version: "2.9.99", baseUrl: `http://127.0.0.1:${port}` };
      const progress: string[] = [];
      const find = (sha256: string) =>
        findNatsServer({
          env: { ...env(), PATH: `${scratch}/bin:/usr/bin:/bin` },
          progress: (line) => progress.push(line),
          release: { ...release, sha256: { [platform]: sha256 } },
        });
      const right = createHash("sha256").update(archive).digest("hex");
      const binary = await find(right);
      expect(binary).toMatchObject({ version: "2.9.99", source: "official release" });
      expect(binary.path).toBe(path.join(scratch, "cache/rally/nats-server-v2.9.99"));
      expect(asked).toEqual([`/v2.9.99/${name}.tar.gz`]);
      expect(progress.join("\n")).toContain("fetching http://127.0.0.1");
      expect(await find(right)).toMatchObject({ source: "cache folder" });
      expect(asked).toHaveLength(1);
    } finally {
      server.close();
    }
  });
});

describe("startNatsServer", () => {
  it("starts on a free loopback port, stops, and leaves nothing behind", async () => {
    const server = await startNatsServer();
    try {
      expect(server.url).toMatch(/^nats:\/\/127\.0\.0\.1:\d+$/);
      expect(await greeting(server.port)).toMatchObject({ jetstream: true, max_payload: server.maxPayload });
    } finally {
      await server.stop();
    }
    await server.stop();
    expect(existsSync(server.storeDir)).toBe(false);
    expect(isAlive(server.pid)).toBe(false);
  });

  it("starts again on the same port and store after SIGKILL", async () => {
    const server = await startTestServer({ maxPayload: 100_000 });
    try {
      await server.kill();
      expect(isAlive(server.running.pid)).toBe(false);
      await server.restart();
      expect(await greeting(server.running.port)).toMatchObject({ max_payload: 100_000 });
    } finally {
      await server.stop();
    }
  });

  it("stops and cleans up even when nothing else keeps the process alive", async () => {
    const { path: binary, version } = await findNatsServer();
    const script = `
      const { startNatsServer } = await import(${JSON.stringify(path.resolve("dist/infra/nats-server.js"))});
      const binary = ${JSON.stringify({ path: binary, version, source: "test" })};
      const server = await startNatsServer({ binary });
      await server.stop();
      console.log(server.storeDir, server.pid);`;
    const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script]);
    const [storeDir = "", pid = ""] = stdout.trim().split(" ");
    expect(existsSync(storeDir)).toBe(false);
    expect(isAlive(Number(pid))).toBe(false);
  });

  it("does not share a store with another server", async () => {
    const server = await startTestServer();
    try {
      const { storeDir, pid } = server.running;
      await expect(startNatsServer({ storeDir })).rejects.toMatchObject({
        code: "server-unavailable",
        message: expect.stringContaining(`in use by the nats-server with pid ${pid}`),
      });
      const later = startNatsServer({ storeDir });
      await server.kill();
      await (await later).stop();
    } finally {
      await server.stop();
    }
  }, 30_000);

  it("says why it did not start", async () => {
    const server = await startTestServer();
    try {
      const again = startNatsServer({ port: server.running.port, startTimeoutMs: 5000 });
      await expect(again).rejects.toMatchObject({
        code: "server-unavailable",
        message: expect.stringContaining("address already in use"),
      });
    } finally {
      await server.stop();
    }
  });

  it("ends when its parent is killed", async () => {
    const { path: binary, version } = await findNatsServer();
    const parent = path.join(scratch, "parent.mjs");
    const module_ = path.resolve("dist/infra/nats-server.js");
    await writeFile(
      parent,
      `import { startNatsServer } from ${JSON.stringify(module_)};
       const binary = { path: ${JSON.stringify(binary)}, version: ${JSON.stringify(version)}, source: "test" };
       const { pid, storeDir } = await startNatsServer({ binary });
       console.log(pid, storeDir);
       setInterval(() => {}, 1000);`,
    );
    const child = spawn(process.execPath, [parent], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      const [line]: unknown[] = await once(child.stdout, "data");
      const [pidText = "", storeDir = ""] = String(line).trim().split(" ");
      const pid = Number(pidText);
      expect(isAlive(pid)).toBe(true);
      child.kill("SIGKILL");
      for (let i = 0; i < 200 && (isAlive(pid) || existsSync(storeDir)); i++) await sleep(25);
      expect(isAlive(pid)).toBe(false);
      expect(existsSync(storeDir)).toBe(false);
    } finally {
      child.kill("SIGKILL");
    }
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function greeting(port: number): Promise<unknown> {
  const socket = net.connect(port, "127.0.0.1");
  const [data]: unknown[] = await once(socket, "data");
  socket.destroy();
  return JSON.parse(String(data).slice("INFO ".length));
}
