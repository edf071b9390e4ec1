import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  claimRecord,
  deploymentFolder,
  readRecord,
  removeRecord,
  writeRecord,
} from "../../../actors/cli/deployment-record.ts";

let base: string;
let folder: string;

beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  folder = deploymentFolder({ XDG_DATA_HOME: base }, "mine");
});
afterEach(() => rmSync(base, { recursive: true }));

const ready = {
  nats: { url: "nats://me:secret@127.0.0.1:1" },
  topology: {
    deployment: "mine",
    nats: { url: "nats://127.0.0.1:1", version: "2.9.10", source: "PATH" },
    ephemeral: false,
  },
};

test("is there from claim to removal, for this user alone", () => {
  expect(folder).toBe(path.join(base, "rally", "mine"));
  expect(readRecord(folder)).toBeUndefined();
  claimRecord(folder);
  expect(readRecord(folder)).toMatchObject({ pid: process.pid });
  expect(readRecord(folder)?.ready).toBeUndefined();
  writeRecord(folder, { ready });
  expect(readRecord(folder)?.ready).toEqual(ready);
  expect(statSync(path.join(folder, "deployment.json")).mode & 0o777).toBe(0o600);
  removeRecord(folder);
  removeRecord(folder);
  expect(readRecord(folder)).toBeUndefined();
});

function leave(record: object): void {
  claimRecord(folder);
  writeFileSync(path.join(folder, "deployment.json"), JSON.stringify(record));
}

test("another process that runs keeps the deployment", async () => {
  // Writes the record as itself, then stays.
  const module = new URL("../../../dist/actors/cli/deployment-record.js", import.meta.url).href;
  const script = `import(process.argv[1]).then((m) => { m.claimRecord(process.argv[2]); console.log("claimed"); setInterval(() => 0, 1e6); })`;
  const other = spawn(process.execPath, ["-e", script, module, folder], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await once(other.stdout, "data");
    expect(readRecord(folder)?.pid).toBe(other.pid);
    expect(() => claimRecord(folder)).toThrow(`deployment mine is already up, as process ${other.pid}`);
    other.kill("SIGKILL");
    await once(other, "exit");
    claimRecord(folder);
    expect(readRecord(folder)?.pid).toBe(process.pid);
  } finally {
    other.kill("SIGKILL");
  }
});

test.each([
  ["a process that is gone", { pid: 2 ** 30, startedAs: "" }],
  ["an earlier process with a pid in use again", { pid: process.pid, startedAs: "long ago" }],
  ["something unreadable", {}],
])("the record of %s counts as none", (_, record) => {
  leave(record);
  expect(readRecord(folder)).toBeUndefined();
  claimRecord(folder);
  expect(readRecord(folder)).toMatchObject({ pid: process.pid });
});

test("a name that is none does not become a path", () => {
  expect(() => deploymentFolder({ XDG_DATA_HOME: base }, "../x")).toThrow(/deployment must/);
});
