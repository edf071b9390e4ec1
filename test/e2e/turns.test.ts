import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { allowedCores } from "../../infra/cores.ts";
import { startDeployment } from "../support/deployment.ts";

const cores = allowedCores() ?? [];

/** Cores on which each thread of a process may run; the main thread's first. */
function threadsOf(pid: number): (readonly number[])[] {
  return readdirSync(`/proc/${pid}/task`)
    .map(Number)
    .sort((a, b) => a - b)
    .flatMap((thread) => {
      const found = allowedCores(`/proc/${pid}/task/${thread}/status`);
      return found === undefined ? [] : [found];
    });
}

/** Of each thread of a process, the main thread's first: field 19 of its stat, of which the name ends with the last bracket. */
function nicenessOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .map(Number)
    .sort((a, b) => a - b)
    .map((thread) => Number(contentOf(`/proc/${pid}/task/${thread}/stat`).split(") ").at(-1)?.split(" ")[16]));
}

/** The process of the server at `url`, whose folder has a file with its ports. */
function serverAt(url: string): number {
  const [, port] = /:(\d+)$/.exec(url) ?? [];
  const isIt = (pid: string) => {
    const [, folder] = /(\S+)\/nats-server\.conf/.exec(contentOf(`/proc/${pid}/cmdline`).replaceAll("\0", " ")) ?? [];
    if (folder === undefined) return false;
    // Named after the binary, which may be a fetched one.
    const file = orNothing(() => readdirSync(folder), []).find((name) => name.endsWith(`_${pid}.ports`));
    return file !== undefined && contentOf(path.join(folder, file)).includes(`:${port}`);
  };
  return Number(readdirSync("/proc").find((name) => /^\d+$/.test(name) && isIt(name)));
}

function contentOf(file: string): string {
  return orNothing(() => readFileSync(file, "utf8"), "");
}

/** Others' processes and folders come and go. */
function orNothing<T>(read: () => T, nothing: T): T {
  try {
    return read();
  } catch {
    return nothing;
  }
}

it.skipIf(cores.length < 2)("gives each thread of a deployment that takes turns its core", async () => {
  const last = cores.at(-1);
  const others = cores.slice(0, -1);
  const deployment = await startDeployment({ numShards: 1, microBatches: 1, turns: cores });
  try {
    expect(deployment.supervisor.pids).toHaveLength(2);
    for (const pid of deployment.supervisor.pids) {
      const [control, ...rest] = threadsOf(pid);
      expect(control).toEqual(others);
      // The thread that runs the graphs, and one thread of a graph on every other core.
      for (const core of cores) expect(rest, `a thread on core ${core}`).toContainEqual([core]);
    }
    const server = threadsOf(serverAt(deployment.supervisor.nats.settings.url));
    expect(server.length).toBeGreaterThan(0);
    for (const thread of server) expect(thread).not.toContain(last);
    // The attention actor's event loop gives way to the thread that runs its graphs.
    const [attention] = deployment.supervisor.pids;
    const [control, ...rest] = nicenessOf(attention as number);
    expect(control).toBe(Math.min(19, Math.min(...rest) + 10));
    // Whoever started it is as free as before.
    expect(allowedCores()).toEqual(cores);
  } finally {
    await deployment.stop();
  }
});
