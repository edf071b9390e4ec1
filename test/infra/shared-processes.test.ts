import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SharedMaps } from "../../infra/native/shared-map.ts";
import { packageRoot } from "../../infra/own-file.ts";
import { SharedInbox } from "../../infra/shared-inbox.ts";
import { SharedOutbox } from "../../infra/shared-outbox.ts";
import { haveAddon } from "../support/addon.ts";

const LIMIT = 100_000_000;
/** Only one of them has room. */
const LARGE = 100_000_000;
const maps: SharedMaps | "none" = (await haveAddon()) ? (SharedMaps.find() ?? "none") : "none";
const large = new Uint8Array(LARGE);

const moduleOf = (name: string): string =>
  JSON.stringify(pathToFileURL(path.join(packageRoot, `dist/infra/${name}.js`)).href);

/** Takes what it gets the ticket of, tells its last byte, and never gives it back. */
const READER = `
  const { SharedInbox } = await import(${moduleOf("shared-inbox")});
  globalThis.inbox = new SharedInbox();
  const take = (ticket) => {
    globalThis.taken = inbox.take(Buffer.from(ticket, "hex"), ${LIMIT});
    return typeof taken === "string" ? taken : String(taken.at(-1));
  };`;
const AS_PROCESS = `${READER}
  process.stdin.on("data", (data) => process.stdout.write(take(String(data))));`;
const AS_THREAD = `(async () => {${READER}
  const { parentPort } = require("node:worker_threads");
  parentPort.on("message", (ticket) => parentPort.postMessage(take(ticket)));
})()`;

/** Puts one payload, tells its ticket, and waits. */
const WRITER = `
  const { SharedOutbox } = await import(${moduleOf("shared-outbox")});
  globalThis.outbox = SharedOutbox.open();
  process.stdout.write(Buffer.from(outbox.put(new Uint8Array(100_000).fill(5), 0)).toString("hex"));
  process.stdin.resume();`;

function start(script: string): ChildProcess {
  return spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
}

async function answerOf(child: ChildProcess): Promise<string> {
  if (child.stdout === null) throw new Error("no output");
  const [data]: Buffer[] = await once(child.stdout, "data");
  return String(data);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

describe.skipIf(maps === "none")("payloads that another reads in place", () => {
  let now = 0;
  let outbox: SharedOutbox<string>;
  let children: ChildProcess[] = [];
  let ticket = "";

  beforeEach(() => {
    now = 0;
    const opened = SharedOutbox.open<string>(() => now, maps);
    if (opened === undefined) throw new Error("no shared memory");
    outbox = opened;
    ticket = Buffer.from(put(7) ?? []).toString("hex");
  });
  afterEach(async () => {
    await Promise.all(children.map(end));
    children = [];
    outbox.close();
  });

  const put = (value: number) => {
    large[LARGE - 1] = value;
    return outbox.put(large, "");
  };

  async function reader(): Promise<ChildProcess> {
    const child = start(AS_PROCESS);
    children.push(child);
    child.stdin?.write(ticket);
    expect(await answerOf(child)).toBe("7");
    return child;
  }

  it("are its own for as long as it lives, even if it is stopped", async () => {
    const child = await reader();
    child.kill("SIGSTOP");
    now = 3_600_000;
    expect(put(8)).toBeUndefined();
    expect(outbox.takeBack(Buffer.from(ticket, "hex"))).toBeUndefined();
    now = 7_200_000;
    expect(put(8)).toBeUndefined();
    await end(child);
    expect(put(8)).toBeDefined();
  });

  it("are not given up at once when it dies, but in time", async () => {
    await end(await reader());
    expect(put(8)).toBeUndefined();
    now = 9_999;
    expect(put(8)).toBeUndefined();
    now = 10_000;
    expect(put(8)).toBeDefined();
  });

  it("are given up when the thread ends that was reading", async () => {
    const worker = new Worker(AS_THREAD, { eval: true });
    worker.postMessage(ticket);
    expect(await once(worker, "message")).toEqual(["7"]);
    now = 20_000;
    expect(put(8)).toBeUndefined();
    await worker.terminate();
    await expect.poll(() => put(8)).toBeDefined();
  });

  it("a reader that comes too late finds them gone", async () => {
    now = 20_000;
    const later = put(8);
    const child = start(AS_PROCESS);
    children.push(child);
    child.stdin?.write(ticket);
    expect(await answerOf(child)).toBe("gone");
    child.stdin?.write(Buffer.from(later ?? []).toString("hex"));
    expect(await answerOf(child)).toBe("8");
  });
});

const isPayload = (taken: unknown): boolean =>
  taken instanceof Uint8Array && taken.length === 100_000 && taken.every((byte) => byte === 5);

/** Files without a name that this process has open or mapped. */
function numHeld(): number {
  const isShared = (name: string): boolean => /memfd:rally-shared|\/dev\/shm\/rally-\w+ \(deleted\)/.test(name);
  const open = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return "";
    }
  });
  const mapped = readFileSync("/proc/self/maps", "utf8").split("\n");
  return [...open, ...mapped].filter(isShared).length;
}

const WAYS: readonly { readonly name: string; readonly reads: SharedMaps | "none" }[] = [
  ...(maps === "none" ? [] : [{ name: "mapped", reads: maps }]),
  { name: "copied", reads: "none" },
];

describe.skipIf(process.platform !== "linux").each(WAYS)("files of others, $name", ({ reads }) => {
  it("are left when their process is gone and another's is opened", async () => {
    await expect.poll(numHeld).toBe(0);
    const inbox = new SharedInbox(reads);
    const writers: ChildProcess[] = [];
    const writer = async (): Promise<Uint8Array> => {
      const child = start(WRITER);
      writers.push(child);
      return Buffer.from(await answerOf(child), "hex");
    };
    try {
      const taken = inbox.take(await writer(), LIMIT);
      expect(isPayload(taken)).toBe(true);
      expect(numHeld()).toBe(1);
      for (const child of writers) await end(child);
      // What was taken stays until then.
      expect(isPayload(taken)).toBe(true);
      expect(existsSync(`/proc/${writers[0]?.pid}`)).toBe(false);
      expect(isPayload(inbox.take(await writer(), LIMIT))).toBe(true);
      await expect.poll(numHeld).toBe(1);
      inbox.close();
      await expect.poll(numHeld).toBe(0);
    } finally {
      await Promise.all(writers.map(end));
      inbox.close();
    }
  });
});
