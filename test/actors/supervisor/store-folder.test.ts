import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ownIdentity, type ProcessIdentity } from "../../../actors/supervisor/process-identity.ts";
import { storeError, storeFolder } from "../../../actors/supervisor/store-folder.ts";
import { RallyError } from "../../../infra/errors.ts";

let base: string;

beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), "rally-test-"));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

test("a folder is made where there is none, and has room", async () => {
  const folder = path.join(base, "a", "b");
  await storeFolder.check(folder);
  expect(await storeFolder.hasRoom(folder, 1)).toBe(true);
  expect(await storeFolder.hasRoom(folder, 2 ** 60)).toBe(false);
});

test("a path through a file is no folder", async () => {
  writeFileSync(path.join(base, "file"), "");
  await expect(storeFolder.check(path.join(base, "file", "store"))).rejects.toMatchObject({
    code: "store-unavailable",
    fields: { reason: "ENOTDIR" },
  });
});

test("a folder that is gone is no reason to stop a server that works", async () => {
  expect(await storeFolder.hasRoom(path.join(base, "gone"), 1)).toBe(true);
});

test("the port is kept, and given out while nobody has it", async () => {
  const folder = path.join(base, "store");
  mkdirSync(folder);
  expect(await storeFolder.lastPort(folder)).toBeUndefined();
  const server = net.createServer();
  const port = await new Promise<number>((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve((server.address() as net.AddressInfo).port));
  });
  await storeFolder.keepPort(folder, port);
  expect(await storeFolder.lastPort(folder)).toBeUndefined();
  await new Promise((resolve) => server.close(resolve));
  expect(await storeFolder.lastPort(folder)).toBe(port);
});

describe("temporary folders that were left behind", () => {
  const before = process.env["TMPDIR"];
  beforeEach(() => void (process.env["TMPDIR"] = base));
  afterEach(() => {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
  });

  function leave(name: string, owner: Partial<ProcessIdentity> | undefined): void {
    mkdirSync(path.join(base, name));
    if (owner === undefined) return;
    writeFileSync(path.join(base, name, "owner.json"), JSON.stringify({ ...ownIdentity(), ...owner }));
  }

  test("are removed if the process that had them is gone, and only then", async () => {
    const { startedAs } = ownIdentity();
    leave("rally-nats-mine", {});
    leave("rally-nats-gone", { pid: 2 ** 30 });
    leave("rally-nats-same-pid", { startedAs: `${startedAs}0` });
    leave("rally-nats-boot-before", { startedAs: "another-boot 1", namespace: "pid:[1]" });
    leave("rally-nats-container", { pid: 2 ** 30, namespace: "pid:[1]" });
    leave("rally-nats-host", { pid: 2 ** 30, host: "elsewhere" });
    leave("rally-nats-new", undefined);
    leave("other-gone", { pid: 2 ** 30 });
    await storeFolder.sweep();
    expect(readdirSync(base).toSorted()).toEqual([
      "other-gone",
      "rally-nats-container",
      "rally-nats-host",
      "rally-nats-mine",
      "rally-nats-new",
    ]);
  });

  test("a claimed one is this process'", async () => {
    leave("rally-nats-x", undefined);
    await storeFolder.claim(path.join(base, "rally-nats-x"));
    await storeFolder.sweep();
    expect(readdirSync(base)).toEqual(["rally-nats-x"]);
    expect(JSON.parse(readFileSync(path.join(base, "rally-nats-x", "owner.json"), "utf8"))).toEqual(ownIdentity());
  });
});

test("only what a disk says is the store's fault", () => {
  const full = storeError(Object.assign(new Error("write"), { code: "ENOSPC" }), "/store");
  expect(full).toMatchObject({ code: "store-unavailable", fields: { folder: "/store", reason: "ENOSPC" } });
  expect(full.message).toContain("the disk is full");
  const other = new RallyError("server-unavailable", "none found");
  expect(storeError(other, "/store")).toBe(other);
  expect(storeError(new Error("a bug"), "/store").code).toBe("internal");
});
