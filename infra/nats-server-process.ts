import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RallyError } from "./errors.ts";

export interface LaunchOptions {
  /** Keeps JetStream's files, the configuration and the log. Without it: a temporary folder, removed by `stop`. */
  readonly storeDir?: string;
  /** A free one if not given. */
  readonly port?: number;
  readonly maxPayload?: number;
  /** Limit of JetStream's files; without it, three quarters of the free disk. */
  readonly maxStoreBytes?: number;
  /** False: a server without any store, which refuses what would need one. */
  readonly jetStream?: boolean;
  /** A large store takes a while to be read. */
  readonly startTimeoutMs?: number;
}

export interface RunningNatsServer {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  readonly version: string;
  readonly source: string;
  readonly maxPayload: number;
  readonly storeDir: string;
  readonly logFile: string;
  /** Resolves when the server has ended, asked to or not. */
  readonly exited: Promise<void>;
  /** SIGTERM, then SIGKILL after a while; removes temporary files. Safe to call twice. */
  stop(): Promise<void>;
}

/** Large enough for a few hundred rows of a large model; NATS advises against more. */
const MAX_PAYLOAD = 8 * 1024 * 1024;
const CONFIG_FILE = "nats-server.conf";
const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 5000;

/**
 * Runs `$1 -c $2`, tells its pid on fd 3, and ends it when fd 3 closes: the kernel closes the parent's end even if the parent
 * was killed. Then removes the folder `$3`, if any.
 */
const KEEPER = `
"$1" -c "$2" 3<&- &
server=$!
echo $server >&3
(
  read -r _ <&3
  trap '' TERM
  kill -TERM $server
  tries=0
  while kill -0 $server && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL $server
  if [ -n "$3" ]; then rm -rf "$3"; fi
) 2>/dev/null &
keeper=$!
wait $server
status=$?
kill $keeper 2>/dev/null
exit $status
`;

/**
 * Megabytes of activations pass through a small heap: at Go's default it is collected all the time. Actors compute on the same
 * cores: a server that may use all of them wakes a sleeping one for each message, which costs more than the message.
 */
function goSettings(numCores: number): Readonly<Record<string, string>> {
  return { GOGC: "400", GOMAXPROCS: String(Math.max(1, Math.floor(numCores / 2))) };
}

export async function launchNatsServer(
  binary: { readonly path: string; readonly version: string; readonly source: string },
  options: LaunchOptions,
): Promise<RunningNatsServer> {
  const temporary = options.storeDir === undefined;
  const storeDir = path.resolve(options.storeDir ?? (await mkdtemp(path.join(os.tmpdir(), "rally-nats-"))));
  await mkdir(storeDir, { recursive: true });
  await untilUnused(storeDir);
  const maxPayload = options.maxPayload ?? MAX_PAYLOAD;
  const configFile = path.join(storeDir, CONFIG_FILE);
  const logFile = path.join(storeDir, "nats-server.log");
  await writeFile(configFile, configuration(storeDir, maxPayload, options));

  const log = openSync(logFile, "a");
  const child = spawn("/bin/sh", ["-c", KEEPER, "rally-nats", binary.path, configFile, temporary ? storeDir : ""], {
    // A group of its own: Ctrl-C in the terminal is for us, and the actors need the server while they drain.
    detached: true,
    env: { ...goSettings(os.availableParallelism()), ...process.env },
    stdio: ["ignore", log, log, "pipe"],
  });
  closeSync(log);
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()).once("error", () => resolve()));
  let ended = false;
  void exited.then(() => (ended = true));

  const removeFiles = async (): Promise<void> => {
    if (temporary) await rm(storeDir, { recursive: true, force: true });
  };
  try {
    const pid = await readPid(child);
    const stop = async (): Promise<void> => {
      // Nothing else may be left that keeps this process alive until the server has ended.
      child.ref();
      if (!ended) signal(pid, "SIGTERM");
      await Promise.race([exited, sleep(STOP_TIMEOUT_MS, undefined, { ref: false })]);
      if (!ended) signal(pid, "SIGKILL");
      await exited;
      await removeFiles();
    };
    try {
      const timeoutMs = options.startTimeoutMs ?? START_TIMEOUT_MS;
      const portsFile = path.join(storeDir, `${path.basename(binary.path)}_${pid}.ports`);
      const port = await untilReady(portsFile, timeoutMs, () => ended);
      child.unref();
      return {
        url: `nats://127.0.0.1:${port}`,
        port,
        pid,
        version: binary.version,
        source: binary.source,
        maxPayload,
        storeDir,
        logFile,
        exited,
        stop,
      };
    } catch (error) {
      const lines = await lastLines(logFile);
      await stop();
      throw new RallyError(
        "server-unavailable",
        `${binary.path} did not start: ${error instanceof Error ? error.message : String(error)}. Its last words:\n${lines}`,
        { path: binary.path, logFile },
      );
    }
  } catch (error) {
    await removeFiles();
    throw RallyError.from(error, "server-unavailable");
  }
}

/**
 * Two servers on one store would spoil it. One whose parent was killed may still be ending; its ports file names its pid.
 * Looks into /proc, so it sees nothing on other systems than Linux.
 */
async function untilUnused(storeDir: string): Promise<void> {
  const deadline = performance.now() + STOP_TIMEOUT_MS + 1000;
  for (const file of await readdir(storeDir)) {
    const pid = /_(\d+)\.ports$/.exec(file)?.[1];
    if (pid === undefined) continue;
    const configFile = path.join(storeDir, CONFIG_FILE);
    while ((await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).includes(configFile)) {
      if (performance.now() > deadline) {
        throw new RallyError("server-unavailable", `${storeDir} is in use by the nats-server with pid ${pid}`, {
          storeDir,
          pid: Number(pid),
        });
      }
      await sleep(50);
    }
    await rm(path.join(storeDir, file), { force: true });
  }
}

function configuration(storeDir: string, maxPayload: number, options: LaunchOptions): string {
  const jetstream = [`store_dir: ${JSON.stringify(storeDir)}`];
  if (options.maxStoreBytes !== undefined) jetstream.push(`max_file_store: ${options.maxStoreBytes}`);
  return [
    `listen: "127.0.0.1:${options.port ?? -1}"`,
    `ports_file_dir: ${JSON.stringify(storeDir)}`,
    `max_payload: ${maxPayload}`,
    ...(options.jetStream === false ? [] : [`jetstream { ${jetstream.join(", ")} }`]),
    "",
  ].join("\n");
}

async function readPid(child: ChildProcess): Promise<number> {
  const pipe = child.stdio[3];
  return await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", () => reject(new Error("/bin/sh ended at once")));
    if (!(pipe instanceof net.Socket)) return;
    pipe.on("error", () => {});
    pipe.once("data", (data) => {
      pipe.unref();
      resolve(Number(data.toString()));
    });
  });
}

/** The port, once a client is greeted on it. */
async function untilReady(portsFile: string, timeoutMs: number, ended: () => boolean): Promise<number> {
  const deadline = performance.now() + timeoutMs;
  let last = "it opened no port";
  while (performance.now() < deadline) {
    if (ended()) throw new Error("it ended");
    try {
      const port = Number(/127\.0\.0\.1:(\d+)/.exec(await readFile(portsFile, "utf8"))?.[1]);
      if (port > 0 && (await greeting(port)).startsWith("INFO ")) return port;
    } catch (error) {
      if (error instanceof Error && !("code" in error && error.code === "ENOENT")) last = error.message;
    }
    await sleep(10);
  }
  throw new Error(`not ready within ${timeoutMs / 1000} s (${last})`);
}

async function greeting(port: number): Promise<string> {
  return await new Promise<string>((resolve, reject) => {
    const socket = net.connect({ host: "127.0.0.1", port, timeout: 1000 });
    socket.once("data", (data) => {
      socket.destroy();
      resolve(data.toString("latin1"));
    });
    socket.once("error", reject);
    socket.once("timeout", () => socket.destroy(new Error("no greeting within 1 s")));
  });
}

async function lastLines(file: string): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text.trimEnd().split("\n").slice(-12).join("\n");
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended in the meantime.
  }
}
