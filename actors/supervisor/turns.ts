import { pin } from "../../infra/cores.ts";
import type { startNatsServer } from "../../infra/nats-server.ts";
import type { Pinned } from "../protocol/role.ts";

/**
 * Attention and experts in turns, on all cores: with few of them, several micro-batches in flight cost more than they hide, as each
 * reads the weights again. One does nothing while the other computes, so both may use every core; but left to itself the kernel often
 * wakes a thread of a graph on the core of the thread that waits for it. So each has its core.
 */
export type Cores = readonly number[];

/** Of an attention actor. The first core, where servers and much else happen, is not the one that its graphs wait for. */
export function attentionPinned(cores: Cores): Pinned {
  return { compute: cores.toReversed(), control: controlCores(cores) };
}

/**
 * Of the `index`-th of `count` shards on this machine: they compute at the same time, so they share the cores out. The first that is woken
 * is not on attention's own core, which has not quite fallen asleep by then.
 */
export function shardPinned(cores: Cores, index: number, count: number): Pinned {
  const each = Math.max(1, Math.floor(cores.length / count));
  const from = (index * each) % cores.length;
  return { compute: cores.slice(from, from + each), control: controlCores(cores) };
}

/** For what must not hold up the thread that a pass waits for: event loops, the server. */
function controlCores(cores: Cores): Cores {
  return cores.length > 1 ? cores.slice(0, -1) : cores;
}

/** A server of our own, out of the way. */
export function pinnedServer(start: typeof startNatsServer, cores: Cores): typeof startNatsServer {
  return async (options) => {
    const server = await start(options);
    try {
      await pin(server.pid, controlCores(cores), "all");
    } catch (thrown) {
      await server.stop();
      throw thrown;
    }
    return server;
  };
}
