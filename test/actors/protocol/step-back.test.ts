import { execFileSync } from "node:child_process";
import { pathToFileURL } from "node:url";
import { expect, it } from "vitest";
import { compiledFile } from "../../../infra/own-file.ts";

/** The nineteenth field of a thread's stat is its niceness; its name, which may hold spaces, ends with the last bracket. */
const SCRIPT = `
  import { readFileSync, readlinkSync } from "node:fs";
  import { Worker } from "node:worker_threads";
  const niceness = (thread) => Number(readFileSync("/proc/" + thread + "/stat", "utf8").split(") ").at(-1).split(" ")[16]);
  const worker = new Worker('const { parentPort } = require("node:worker_threads"); parentPort.postMessage(require("node:fs").readlinkSync("/proc/thread-self")); parentPort.on("message", () => {})', { eval: true, execArgv: [] });
  const other = await new Promise((resolve) => worker.once("message", resolve));
  const before = niceness(other);
  (await import(process.argv[1])).stepBack();
  console.log(JSON.stringify([niceness(readlinkSync("/proc/thread-self")) - before, niceness(other) - before]));
  await worker.terminate();
`;

it.skipIf(process.platform !== "linux")("puts the main thread behind those that it has started", () => {
  const file = pathToFileURL(compiledFile("actors/protocol/step-back")).href;
  const printed = execFileSync(process.execPath, ["--input-type=module", "-e", SCRIPT, file], { encoding: "utf8" });
  expect(JSON.parse(printed)).toEqual([10, 0]);
});
