import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { connectNats } from "../../infra/nats-connect.ts";
import { findNatsServer } from "../../infra/nats-server.ts";
import { natsSettingsFromEnv, serverAddresses } from "../../infra/nats-settings.ts";
import { startTestServer } from "../support/nats.ts";

describe("connectNats", () => {
  it("gives a bus and a durable store, and lets the process end after close", async () => {
    const server = await startTestServer();
    try {
      const nats = await connectNats({ url: server.url }, { name: "test" });
      const { bus, durable, serverVersion } = nats;
      expect(serverVersion).toMatch(/^2\.\d+\.\d+/);
      expect(bus.maxPayload).toBe(server.running.maxPayload);
      const kv = await durable.keyValue("bucket");
      expect(await kv.put("k", new Uint8Array(1))).toBeGreaterThan(0);
      await nats.close();
      await nats.close();
      expect(() => bus.publish("a", new Uint8Array(0))).toThrow(expect.objectContaining({ code: "closed" }));
    } finally {
      await server.stop();
    }
  });

  it("says which address did not answer", async () => {
    await expect(connectNats({ url: "nats://127.0.0.1:1" }, { name: "test" })).rejects.toMatchObject({
      code: "server-unavailable",
      message: expect.stringMatching(/127\.0\.0\.1:1.*ECONNREFUSED/),
    });
  });

  it("tries the next address when the first does not answer", async () => {
    const server = await startTestServer();
    try {
      const nats = await connectNats({ url: `nats://127.0.0.1:1,${server.url}` }, { name: "test" });
      expect(nats.serverVersion).toBe(server.running.version);
      await nats.close();
    } finally {
      await server.stop();
    }
  });

  it("refuses a server without JetStream", async () => {
    const { path: binary } = await findNatsServer();
    const port = await freePort();
    const child = spawn(binary, ["-a", "127.0.0.1", "-p", String(port)], { stdio: ["ignore", "ignore", "pipe"] });
    try {
      while (!String(await once(child.stderr, "data")).includes("ready"));
      await expect(connectNats({ url: `nats://127.0.0.1:${port}` }, { name: "test" })).rejects.toMatchObject({
        code: "store-unavailable",
        message: expect.stringMatching(/JetStream is off, its disk is full/),
      });
    } finally {
      child.kill();
      await once(child, "exit");
    }
  });

  it.each([
    ["an old server", `INFO {"version":"2.8.4","max_payload":1048576,"headers":true}\r\n`, /2\.8\.4.*2\.9/],
    ["something else", "SSH-2.0-OpenSSH_9.2\r\n", /not the NATS protocol.*SSH/],
    ["broken INFO", "INFO {nonsense\r\n", /INFO is not understood/],
    ["a server that wants TLS", `INFO {"version":"2.9.10","max_payload":9,"tls_required":true}\r\n`, /requires TLS/],
    ["an error", `INFO {"version":"2.9.10","max_payload":9}\r\n-ERR 'Authorization Violation'\r\n`, /Authorization/],
  ])("refuses %s", async (_what, greeting, message) => {
    const server = net.createServer((socket) => {
      socket.write(greeting);
      socket.on("error", () => {});
      socket.on("data", (data) => {
        if (greeting.includes("ERR")) socket.end();
        else if (String(data).includes("PING")) socket.write("PONG\r\n");
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const address = server.address();
      const port = address !== null && typeof address === "object" ? address.port : 0;
      await expect(connectNats({ url: `nats://127.0.0.1:${port}` }, { name: "test" })).rejects.toMatchObject({
        code: "server-unavailable",
        message: expect.stringMatching(message),
      });
    } finally {
      server.close();
    }
  });

  it("signs in with the user and password of the address", async () => {
    const { path: binary } = await findNatsServer();
    const folder = await mkdtemp(path.join(os.tmpdir(), "rally-test-"));
    const port = await freePort();
    const flags = ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", folder, "--user", "u", "--pass", "p@ss"];
    const child = spawn(binary, flags, { stdio: ["ignore", "ignore", "pipe"] });
    try {
      while (!String(await once(child.stderr, "data")).includes("ready"));
      const nats = await connectNats({ url: `nats://u:p%40ss@127.0.0.1:${port}` }, { name: "test" });
      await nats.close();
      await expect(connectNats({ url: `nats://u:wrong@127.0.0.1:${port}` }, { name: "test" })).rejects.toMatchObject({
        code: "server-unavailable",
        message: expect.stringContaining("Authorization Violation"),
      });
    } finally {
      child.kill();
      await once(child, "exit");
      await rm(folder, { recursive: true });
    }
  });
});

describe("TLS", () => {
  const fixture = (name: string): string => path.resolve("test/fixtures/tls", name);

  it("checks the server and shows a certificate of its own", async () => {
    const { path: binary } = await findNatsServer();
    const folder = await mkdtemp(path.join(os.tmpdir(), "rally-test-"));
    const port = await freePort();
    const listen = ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", folder];
    const tls = ["--tls", "--tlscert", fixture("server.pem"), "--tlskey", fixture("server-key.pem")];
    const verify = ["--tlsverify", "--tlscacert", fixture("ca.pem")];
    const child = spawn(binary, [...listen, ...tls, ...verify], { stdio: ["ignore", "ignore", "pipe"] });
    const url = `tls://127.0.0.1:${port}`;
    const trusted = { url, tlsCaFile: fixture("ca.pem") };
    try {
      while (!String(await once(child.stderr, "data")).includes("ready"));
      const [tlsCertFile, tlsKeyFile] = [fixture("client.pem"), fixture("client-key.pem")];
      const nats = await connectNats({ ...trusted, tlsCertFile, tlsKeyFile }, { name: "test" });
      nats.bus.subscribe("echo", ({ payload, reply }) => nats.bus.publish(reply ?? "", new Uint8Array(payload)));
      const answer = await nats.bus.request("echo", new Uint8Array(100_000).fill(5), 5000);
      expect(answer.payload).toHaveLength(100_000);
      await nats.close();
      const refused = { code: "server-unavailable", message: expect.stringContaining(`127.0.0.1:${port}`) };
      await expect(connectNats({ url, tlsCertFile, tlsKeyFile }, { name: "untrusting" })).rejects.toMatchObject(
        refused,
      );
      await expect(connectNats(trusted, { name: "nameless" })).rejects.toMatchObject(refused);
    } finally {
      child.kill();
      await once(child, "exit");
      await rm(folder, { recursive: true });
    }
  });
});

describe("settings", () => {
  it("come from the environment", () => {
    expect(natsSettingsFromEnv({})).toBeUndefined();
    expect(natsSettingsFromEnv({ NATS_URL: "nats://h:1" })).toEqual({ url: "nats://h:1" });
    expect(() => natsSettingsFromEnv({ NATS_CREDS: "/x" })).toThrow(/NATS_CREDS.*NATS_URL/);
    expect(() => natsSettingsFromEnv({ NATS_URL: "h", NATS_CA: "/no/such" })).toThrow(/NATS_CA names \/no\/such/);
    expect(() => natsSettingsFromEnv({ NATS_URL: "h", NATS_CERT: import.meta.filename })).toThrow(/come together/);
  });

  it.each([
    ["nats://host:4333", { host: "host", port: 4333, tls: false }],
    ["host", { host: "host", port: 4222, user: undefined }],
    ["tls://[::1]:80", { host: "::1", port: 80, tls: true }],
    ["nats://u:p%3A@h", { user: "u", password: "p:", host: "h" }],
    ["nats://token@h", { user: "token", password: undefined }],
  ])("understand %s", (url, expected) => {
    expect(serverAddresses({ url })).toEqual([expect.objectContaining(expected)]);
  });

  it.each(["", "http://h", "nats://h:0", "nats://h:99999", "nats://h:x", "nats://a b", "nats://h/path"])(
    "refuse %j",
    (url) => {
      expect(() => serverAddresses({ url })).toThrow(expect.objectContaining({ code: "bad-settings" }));
    },
  );

  it("do not repeat a password", () => {
    expect(() => serverAddresses({ url: "nats://u:secret@h:x" })).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining("secret") }),
    );
  });
});

async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return address !== null && typeof address === "object" ? address.port : 0;
}
