import fs from "node:fs";
import v8 from "node:v8";
import vm from "node:vm";
import { Worker } from "node:worker_threads";
import path from "node:path";
import { once } from "node:events";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SharedMaps } from "../../../infra/native/shared-map.ts";
import { packageRoot } from "../../../infra/own-file.ts";
import { haveAddon } from "../../support/addon.ts";

const BYTES = 1024 * 1024;

/** Of such files, in this process. */
const numMapped = (): number =>
  fs
    .readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes("/memfd:rally-shared")).length;

describe.skipIf(!(await haveAddon()))("a shared file in memory", () => {
  let maps: SharedMaps;
  let fd: number;

  beforeEach(() => {
    const found = SharedMaps.find();
    if (found === undefined) throw new Error("no addon");
    maps = found;
    fd = maps.create(BYTES);
  });
  afterEach(async () => {
    fs.closeSync(fd);
    await expect.poll(numMapped).toBe(0);
  });

  it("is seen by all who have mapped or opened it", () => {
    const [one, two] = [maps.open(fd, BYTES), maps.open(fd, BYTES)];
    const [written, seen] = [new Uint8Array(one.buffer), new Uint8Array(two.buffer)];
    expect(seen).toHaveLength(BYTES);
    written[BYTES - 1] = 7;
    expect(seen[BYTES - 1]).toBe(7);
    fs.writeSync(fd, Uint8Array.of(1, 2, 3), 0, 3, 5000);
    expect([...seen.subarray(5000, 5003)]).toEqual([1, 2, 3]);
    const words = new Int32Array(two.buffer);
    expect(Atomics.compareExchange(new Int32Array(one.buffer), 0, 0, 9)).toBe(0);
    expect(Atomics.load(words, 0)).toBe(9);
    one.release();
    two.release();
  });

  it("can be made neither smaller nor larger, and takes no memory before it is used", () => {
    expect(fs.fstatSync(fd).blocks).toBe(0);
    expect(() => fs.ftruncateSync(fd, BYTES - 1)).toThrow("EPERM");
    expect(() => fs.ftruncateSync(fd, BYTES + 1)).toThrow("EPERM");
    maps.allocate(fd, 4096, 8192);
    expect(fs.fstatSync(fd).blocks).toBe(16);
    expect(() => maps.allocate(fd, BYTES, 4096)).toThrow("posix_fallocate");
    expect(() => maps.allocate(999_999, 0, 4096)).toThrow("posix_fallocate");
  });

  it("is not mapped if it is of another size, or could lose what is mapped", () => {
    expect(() => maps.open(fd, BYTES + 4096)).toThrow("another kind");
    expect(() => maps.open(fd, BYTES - 4096)).toThrow("another kind");
    expect(() => maps.open(999_999, BYTES)).toThrow("fstat");
    const file = `/dev/shm/rally-test-${process.pid}`;
    const plain = fs.openSync(file, "wx+");
    fs.unlinkSync(file);
    fs.ftruncateSync(plain, BYTES);
    expect(() => maps.open(plain, BYTES)).toThrow("another kind");
    fs.closeSync(plain);
  });

  it("is gone after release, and with it what was seen of it", async () => {
    const map = maps.open(fd, BYTES);
    const view = new Uint8Array(map.buffer, 100, 100);
    expect(numMapped()).toBe(1);
    map.release();
    expect([map.buffer.byteLength, view.length, view[0]]).toEqual([0, 0, undefined]);
    await expect.poll(numMapped).toBe(0);
    map.release();
  });

  it("is unmapped once nobody has it any more", async () => {
    v8.setFlagsFromString("--expose-gc");
    const collect = vm.runInNewContext("gc") as () => void;
    for (let i = 0; i < 10; i++) new Uint8Array(maps.open(fd, BYTES).buffer)[0] = 1;
    const unmapped = (): number => {
      collect();
      return numMapped();
    };
    await expect.poll(unmapped).toBe(0);
  });

  it("is unmapped when its thread ends", async () => {
    const module_ = pathToFileURL(path.join(packageRoot, "dist/infra/native/shared-map.js")).href;
    const source = `
      const { parentPort } = require("node:worker_threads");
      import(${JSON.stringify(module_)}).then(({ SharedMaps }) => {
        globalThis.map = SharedMaps.find().open(${fd}, ${BYTES});
        new Uint8Array(map.buffer)[77] = 77;
        parentPort.postMessage(SharedMaps.find().threadId);
        parentPort.on("message", () => {});
      });`;
    const worker = new Worker(source, { eval: true });
    const [threadId]: number[] = await once(worker, "message");
    expect(numMapped()).toBe(1);
    expect(threadId).not.toBe(maps.threadId);
    expect(fs.existsSync(`/proc/${threadId}`)).toBe(true);
    await worker.terminate();
    await expect.poll(numMapped).toBe(0);
    await expect.poll(() => fs.existsSync(`/proc/${threadId}`)).toBe(false);
    const found = new Uint8Array(1);
    fs.readSync(fd, found, 0, 1, 77);
    expect(found[0]).toBe(77);
  });
});

it("needs the addon", () => {
  expect(SharedMaps.find({ XDG_CACHE_HOME: "/nowhere" })).toBeUndefined();
});
