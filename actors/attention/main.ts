import { availableParallelism } from "node:os";
import { systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { isProcessFault } from "../../infra/process-fault.ts";
import { hashModel, loadConfig } from "../../models/load.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { Placements } from "../protocol/placement.ts";
import type { AttentionSettings, AttentionStats } from "../protocol/role.ts";
import { type RoleProcess, type RunningRole, runRole } from "../protocol/role-process.ts";
import { offerRole } from "../protocol/role-service.ts";
import { RoleThread } from "../protocol/role-thread.ts";
import { stepBack } from "../protocol/step-back.ts";
import { ACK_WAIT_MS, openRequestQueue, openTokenLog } from "../protocol/streams.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { AttentionActor } from "./attention-actor.ts";
import type { EngineWorkerData, FromEngine, ToEngine } from "./engine-messages.ts";
import { followPlacement } from "./follow-placement.ts";

/** More gain little, and are as many cores that anything else on this host lacks. */
const MOST_THREADS_ALONE = 2;
/** Requests in hand when a drain begins get this long to end here; the rest goes back to the queue. */
const DRAIN_LIMIT_MS = 10_000;

function threadsAlone(): number {
  return Math.min(MOST_THREADS_ALONE, availableParallelism());
}

async function start(settings: AttentionSettings, process: RoleProcess): Promise<RunningRole> {
  const { id, deployment, modelDir } = settings;
  const clock = systemClock;
  const startedAt = new Date();
  const warn = (text: string) => process.report({ kind: "warning", text });
  const subjects = subjectsOf(deployment);
  // Tokens cannot come before a request was admitted, so the actor exists by then.
  let actor: AttentionActor | undefined;
  const numThreads = settings.pinned?.compute.length ?? 1;
  const numThreadsAlone = settings.pinned === undefined ? threadsAlone() : numThreads;
  const data: EngineWorkerData = { settings, ffn: "remote", numThreads, numThreadsAlone };
  const engine = new RoleThread<ToEngine, FromEngine>("actors/attention/engine-worker", data, {
    progress: (text) => process.report({ kind: "progress", text }),
    warning: warn,
    failed: (error) => process.fail(error),
    message: (message) => {
      if (message.kind === "tokens") actor?.tokens(message.tokens);
      else if (message.kind === "sequenceFailed") failed(message.key, RallyError.fromWire(message.error));
    },
  });
  stepBack();
  const failed = (key: number, error: RallyError) => {
    // Not the request's fault: it comes back to another actor, or to this one when it has started anew.
    if (isProcessFault(error)) process.fail(error);
    else actor?.failed(key, error);
  };
  const ready = engine.ready();
  const [config, tokenizer, modelHash, nats] = await Promise.all([
    loadConfig(modelDir),
    loadTokenizer(modelDir),
    hashModel(modelDir),
    connectNats(settings.nats, { name: id }),
  ]);
  const [queue, log] = await Promise.all([
    openRequestQueue(nats.durable, subjects),
    openTokenLog(nats.durable, subjects),
    ready,
  ]);
  const placement = await followPlacement(await Placements.open(nats.durable, subjects), {
    modelHash,
    numExperts: config.numExperts,
    changed: (placed) => engine.ask({ kind: "placement", placed }, "placed"),
    warn,
    mismatch: (error) => process.fail(error),
  });
  actor = new AttentionActor({
    bus: nats.bus,
    queue,
    log,
    clock,
    subjects,
    deployment,
    attentionId: id,
    config,
    tokenizer,
    engine: {
      admit: (request) => engine.post({ kind: "admit", request }),
      release: (key) => engine.post({ kind: "release", key }),
    },
    maxSequences: settings.maxSequences,
    ackWaitMs: ACK_WAIT_MS,
    appendsPerSecond: settings.appendsPerSecond,
    warn,
  });
  actor.start();
  const running = actor;
  const statsNow = async (): Promise<AttentionStats> => {
    const { stats } = await engine.ask({ kind: "stats" }, "stats");
    const { owned, machineMs, badMessages } = running.counts;
    return {
      ...stats,
      role: "attention",
      id,
      waitingSequences: Math.max(0, owned - stats.activeSequences),
      machineMs: stats.machineMs + machineMs,
      badMessages: stats.badMessages + badMessages,
      rssBytes: globalThis.process.memoryUsage.rss(),
    };
  };
  const service = offerRole(nats.bus, settings, startedAt, statsNow);
  return {
    async drain() {
      await running.drain(DRAIN_LIMIT_MS);
      service.unsubscribe();
      placement.unsubscribe();
      await engine.close({ kind: "close" });
      await nats.close();
    },
    stats: statsNow,
    trace: async () => (await engine.ask({ kind: "trace" }, "trace")).events,
  };
}

await runRole<AttentionSettings>("attention", start);
