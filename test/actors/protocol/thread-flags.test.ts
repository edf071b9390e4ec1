import { spawnSync } from "node:child_process";
import { expect, it } from "vitest";
import { THREAD_FLAGS } from "../../../actors/protocol/thread-flags.ts";

/** In a running process V8 passes over a flag that it does not know; at the start of one Node refuses it. */
it("knows every flag", () => {
  const { status, stderr } = spawnSync(process.execPath, [...THREAD_FLAGS, "-e", "0"], { encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});
