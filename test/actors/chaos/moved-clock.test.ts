import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { ClockFolder } from "../../../actors/chaos/clock-folder.ts";
import { compiledFile } from "../../../infra/own-file.ts";

describe("moved-clock", () => {
  const clocks = new ClockFolder();
  let child: ChildProcess | undefined;

  afterEach(() => {
    child?.kill("SIGKILL");
    clocks.remove();
  });

  it("moves the wall clock of a process and its threads, there and back", async () => {
    const preload = pathToFileURL(compiledFile("actors/chaos/moved-clock")).href;
    // Says, whenever it is asked, what time it is to its main thread and to a worker.
    const program = fileURLToPath(new URL("../../support/chaos/time-teller.mjs", import.meta.url));
    child = spawn(process.execPath, [program], {
      env: { ...process.env, ...clocks.env, NODE_OPTIONS: `--import ${preload}` },
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    await once(child, "message");
    const process_ = child;
    const offsets = async () => {
      process_.send(0);
      const [times] = (await once(process_, "message")) as [number[]];
      // Adding 0 makes a negative zero an ordinary one.
      return times.map((time) => Math.round((time - Date.now()) / 1_000) + 0);
    };
    const until = async (wanted: readonly number[]) => {
      for (let now = await offsets(); now.join() !== wanted.join();) now = await offsets();
      return wanted;
    };
    expect(await offsets()).toEqual([0, 0]);
    clocks.move(child.pid ?? 0, -90_000);
    expect(await until([-90, -90])).toEqual([-90, -90]);
    clocks.move(child.pid ?? 0, 0);
    expect(await until([0, 0])).toEqual([0, 0]);
  });
});
