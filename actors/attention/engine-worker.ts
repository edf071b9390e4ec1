import { availableParallelism } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { systemClock } from "../../infra/clock.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { isLoopback } from "../../infra/nats-settings.ts";
import { loadConfig, openAttentionStages, openFfnShard, openSharedExperts, shardSpecs } from "../../models/load.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { SharedExperts } from "../../models/stages.ts";
import { coresOf, pinThread } from "../protocol/pinned.ts";
import { sharedExpertsAt } from "../protocol/placement.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { TraceBuffer } from "../protocol/trace-buffer.ts";
import { mostMicroBatches } from "./auto-micro-batches.ts";
import { Engine } from "./engine.ts";
import { EngineMeter, WIRE_THREAD } from "./engine-meter.ts";
import type { EngineWorkerData, FromEngine, ToEngine } from "./engine-messages.ts";
import type { FfnSide } from "./ffn-side.ts";
import { LocalFfn } from "./local-ffn.ts";
import { measureTransitionMs } from "./ping-pong.table.ts";
import { type Placed, PlacedFfn } from "./placed-ffn.ts";
import { RemoteFfn } from "./remote-ffn.ts";

/**
 * The engine's thread: graphs block it, so it owns the data plane's connection and nothing that must answer in between.
 */

/** Parts in flight per shard: two trips of every micro-batch, so that a stray retry does not stall the rest. */
const CREDITS_PER_MICRO_BATCH = 2;
const DEFAULT_KV_BYTES = 256 << 20;

const port = parentPort;
assert(port !== null, "the engine runs in a worker thread");
const { settings, ffn: ffnKind, numThreads, numThreadsAlone } = workerData as EngineWorkerData;
const clock = systemClock;
const post = (message: FromEngine) => port.postMessage(message);
const warn = (text: string) => post({ kind: "warning", text });
const progress = (text: string) => post({ kind: "progress", text });

const trace = new TraceBuffer({ enabled: settings.trace, clock, processId: process.pid });
const meter = new EngineMeter({ clock, trace, warn });
interface OpenedFfn {
  readonly ffn: FfnSide;
  readonly place: (placed: Placed) => Promise<void>;
  readonly close: () => Promise<void>;
}

async function openFfn(config: ModelConfig): Promise<OpenedFfn> {
  const { id, deployment, modelDir, provider } = settings;
  const options = { ...coresOf(settings), provider, progress, warn };
  if (ffnKind === "local") {
    const withoutShared = sharedExpertsAt(provider) === "attention";
    const sharedExperts = withoutShared ? await openSharedExperts(modelDir, { ...options, numThreads }) : undefined;
    const shards = await Promise.all(
      shardSpecs(config, 1).map((spec) =>
        openFfnShard(modelDir, { ...spec, withoutShared }, { ...options, numThreads }),
      ),
    );
    const close = async () => {
      await sharedExperts?.release();
      await Promise.all(shards.map((shard) => shard.release()));
    };
    return { ffn: new LocalFfn(shards, sharedExperts), place: async () => undefined, close };
  }
  let sharedExperts: SharedExperts | undefined;
  const nats = await connectNats(settings.nats, { name: `${id}-engine` });
  const ffn = new PlacedFfn({
    clock,
    numLayers: config.numLayers,
    open: ({ epoch, numShards, ...placed }) =>
      new RemoteFfn({
        bus: nats.bus,
        clock,
        subjects: subjectsOf(deployment, epoch),
        deployment,
        attentionId: id,
        epoch: () => epoch,
        numShards,
        hiddenSize: config.hiddenSize,
        topK: config.topK,
        wireDtype: settings.wireDtype,
        dispatchTimeoutMs: settings.dispatchTimeoutMs,
        creditsPerShard: maxMicroBatches() * CREDITS_PER_MICRO_BATCH,
        ...(placed.sharedExperts === "attention" && { sharedExperts }),
        observe: meter,
      }),
  });
  return {
    ffn,
    place: async (placed) => {
      // One thread: the experts compute at the same time, and so do other micro-batches.
      if (placed.sharedExperts === "attention") {
        sharedExperts ??= await openSharedExperts(modelDir, { ...options, numThreads: 1 });
      }
      ffn.place(placed);
    },
    close: async () => {
      ffn.close();
      await nats.close();
      await sharedExperts?.release();
    },
  };
}

/** `numShards`: of the placement, or the fewest that there may be. */
function maxMicroBatches(numShards = 1): number {
  if (settings.microBatches !== "auto") return settings.microBatches;
  if (ffnKind === "local") return 1;
  // Behind a server of this host the experts are here, too, or soon may be.
  return mostMicroBatches({ numCores: availableParallelism(), isShared: isLoopback(settings.nats), numShards });
}

/** At least one sequence at its longest fits. */
function defaultKvTokens({ numLayers, headDim, contextLength }: ModelConfig): number {
  const tokenBytes = numLayers * 2 * headDim * Float32Array.BYTES_PER_ELEMENT;
  const most = settings.maxSequences * contextLength;
  return Math.min(most, Math.max(contextLength, Math.floor(DEFAULT_KV_BYTES / tokenBytes)));
}

/**
 * What may be held for a moment beyond `maxKvTokens`: a sequence that was ended keeps its slot until its micro-batch is back from its
 * pass, while the others begin new ones.
 */
function kvRoomFor(maxKvTokens: number) {
  const { maxSequences, prefillTokens } = settings;
  return { numTokens: maxKvTokens + 2 * maxMicroBatches() * prefillTokens, numSequences: 2 * maxSequences };
}

async function start(): Promise<void> {
  await pinThread(settings);
  const config = await loadConfig(settings.modelDir);
  const { modelDir, provider } = settings;
  const maxKvTokens = settings.maxKvTokens ?? defaultKvTokens(config);
  const kvRoom = kvRoomFor(maxKvTokens);
  const stages = await openAttentionStages(modelDir, {
    numThreads,
    numThreadsAlone,
    ...coresOf(settings),
    provider,
    kvRoom,
    progress,
    warn,
  });
  const { ffn, place, close } = await openFfn(config);
  let numShards: number | undefined;
  const numMicroBatches = () =>
    settings.microBatches === "auto" ? meter.microBatches(maxMicroBatches(numShards)) : settings.microBatches;
  const engine = new Engine({
    stages,
    ffn,
    clock,
    observer: meter,
    listener: {
      tokens: (tokens) => post({ kind: "tokens", tokens }),
      failed: (key, error) => post({ kind: "sequenceFailed", key, error: error.toWire() }),
    },
    maxSequences: settings.maxSequences,
    maxKvTokens,
    maxMicroBatches: maxMicroBatches(),
    microBatches: numMicroBatches,
    prefillTokens: settings.prefillTokens,
  });
  const transitionMs = measureTransitionMs(() => clock.elapsed());
  trace.name(settings.id, {
    0: "attention",
    ...Object.fromEntries(
      Array.from({ length: maxMicroBatches() }, (_, i) => [WIRE_THREAD + i, `micro-batch ${i} with the experts`]),
    ),
  });

  const answer = async (message: ToEngine): Promise<void> => {
    switch (message.kind) {
      case "admit":
        try {
          engine.admit(message.request);
        } catch (thrown) {
          post({ kind: "sequenceFailed", key: message.request.key, error: RallyError.from(thrown).toWire() });
        }
        return;
      case "release":
        return engine.release(message.key);
      case "placement":
        numShards = message.placed.numShards;
        await place(message.placed);
        post({ kind: "placed" });
        return;
      case "stats": {
        const { transitions, ...counts } = engine.counts;
        post({
          kind: "stats",
          stats: {
            ...meter.sums,
            machineMs: transitions * transitionMs,
            passes: counts.passes,
            decodeTokens: counts.decodeTokens,
            prefillTokens: counts.prefillTokens,
            microBatches: numMicroBatches(),
            activeSequences: counts.activeSequences,
            kvTokens: counts.kvTokens,
            preemptions: counts.preemptions,
            pendingDispatches: ffn.pending,
            creditsInUse: ffn.creditsInUse,
          },
        });
        return;
      }
      case "trace":
        post({ kind: "trace", events: trace.take() });
        return;
      case "close":
        await engine.close();
        await close();
        await stages.release();
        port?.close();
    }
  };
  // A placement may take a moment to be ready for; what comes after it waits.
  let placing: Promise<void> = Promise.resolve();
  port?.on("message", (message: ToEngine) => {
    const answered = placing.then(() => answer(message));
    answered.catch((thrown: unknown) => post({ kind: "failed", error: RallyError.from(thrown).toWire() }));
    if (message.kind === "placement") placing = answered;
  });
  engine.start();
  post({ kind: "ready" });
}

start().catch((thrown: unknown) => post({ kind: "failed", error: RallyError.from(thrown).toWire() }));
