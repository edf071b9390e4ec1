import { execFile } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { pause } from "../../infra/chaos/pause.ts";
import { sendSignal } from "../../infra/chaos/signals.ts";
import type { Clock } from "../../infra/clock.ts";
import { findNatsServer, type RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import type { Broker } from "./chaos-target.ts";

const run = promisify(execFile);
const LOOK_EVERY_MS = 20;

/** The supervisor's nats-server: the supervisor starts it again as ever, only not before a fault allows. */
export class OwnBroker implements Broker {
  readonly #clock: Clock;
  #server: RunningNatsServer | undefined;
  #isUp = false;
  #downUntil = 0;
  #wrapper: Promise<string | undefined> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get pid(): number | undefined {
    return this.#isUp ? this.#server?.pid : undefined;
  }

  /** In the place of `startNatsServer`. */
  readonly start: typeof startNatsServer = async (options) => {
    await pause(this.#clock, this.#downUntil - this.#clock.elapsed());
    const binary = await findNatsServer(options);
    this.#wrapper ??= wrapperOf(binary.path);
    const wrapper = await this.#wrapper;
    const server = await startNatsServer({ ...options, binary: { ...binary, path: wrapper ?? binary.path } });
    this.#server = server;
    this.#isUp = true;
    void server.exited.then(() => {
      if (this.#server === server) this.#isUp = false;
    });
    return server;
  };

  /** Whether a full disk can be played: its writes must fail, not end it. */
  async canLimitFiles(): Promise<boolean> {
    return (await this.#wrapper) !== undefined;
  }

  end(signal: "SIGKILL" | "SIGTERM", downMs: number): void {
    const { pid } = this;
    this.#downUntil = this.#clock.elapsed() + downMs;
    if (pid !== undefined) sendSignal(pid, signal);
  }

  async isBack(signal: AbortSignal): Promise<void> {
    const last = this.#server;
    while (!signal.aborted && (!this.#isUp || this.#server === last)) await pause(this.#clock, LOOK_EVERY_MS, signal);
  }

  async close(): Promise<void> {
    const wrapper = await this.#wrapper;
    if (wrapper !== undefined) await rm(path.dirname(wrapper), { recursive: true, force: true });
  }
}

/**
 * A write beyond RLIMIT_FSIZE sends SIGXFSZ, which would end the server; blocked, the write fails as on a full disk.
 * Undefined where there is no `env` that can block a signal.
 */
async function wrapperOf(binary: string): Promise<string | undefined> {
  try {
    await run("env", ["--block-signal=XFSZ", "true"]);
    await run("prlimit", ["--version"]);
  } catch {
    return undefined;
  }
  const folder = await mkdtemp(path.join(os.tmpdir(), "rally-chaos-"));
  // The server names a file after itself, and is looked for under that name.
  const file = path.join(folder, path.basename(binary));
  await writeFile(file, `#!/bin/sh\nexec env --block-signal=XFSZ "${binary}" "$@"\n`);
  await chmod(file, 0o755);
  return file;
}
