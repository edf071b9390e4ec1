import { parentPort, workerData } from "node:worker_threads";
import { systemClock } from "../../infra/clock.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { loadConfig, openFfnShard } from "../../models/load.ts";
import { coresOf, pinThread } from "../protocol/pinned.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { TraceBuffer } from "../protocol/trace-buffer.ts";
import { Expert } from "./expert.ts";
import { ExpertMeter } from "./expert-meter.ts";
import type { ExpertWorkerData, FromExpert, ToExpert } from "./expert-messages.ts";

/** The experts' thread: graphs block it, so it owns the data plane's connection and nothing that must answer in between. */

const port = parentPort;
assert(port !== null, "the experts run in a worker thread");
const { settings, spec } = workerData as ExpertWorkerData;
const clock = systemClock;
const post = (message: FromExpert) => port.postMessage(message);

async function start(): Promise<void> {
  const { id, deployment, epoch, modelDir, provider, shard } = settings;
  const config = await loadConfig(modelDir);
  const progress = (text: string) => post({ kind: "progress", text });
  const warn = (text: string) => post({ kind: "warning", text });
  await pinThread(settings);
  const numThreads = settings.pinned?.compute.length ?? 1;
  const ffn = await openFfnShard(modelDir, spec, { numThreads, ...coresOf(settings), provider, progress, warn });
  const nats = await connectNats(settings.nats, { name: id });
  const trace = new TraceBuffer({ enabled: settings.trace, clock, processId: process.pid });
  trace.name(id, { 0: `experts of shard ${shard}` });
  const meter = new ExpertMeter({ clock, trace, warn });
  const expert = new Expert({
    bus: nats.bus,
    clock,
    subjects: subjectsOf(deployment, epoch),
    deployment,
    expertId: id,
    config,
    ffn,
    epoch: () => epoch,
    maxWaitingBatches: settings.maxWaitingBatches,
    observer: meter,
    faulted: (error) => post({ kind: "failed", error: error.toWire() }),
  });
  expert.serve();
  await nats.bus.flush();

  const answer = async (message: ToExpert): Promise<void> => {
    switch (message.kind) {
      case "stats":
        return post({
          kind: "stats",
          stats: { ...meter.sums, role: "expert", id, shard, waiting: expert.waiting },
        });
      case "trace":
        return post({ kind: "trace", events: trace.take() });
      case "drain":
        await expert.drain();
        await nats.close();
        await ffn.release();
        port?.close();
    }
  };
  port?.on("message", (message: ToExpert) => {
    answer(message).catch((thrown: unknown) => post({ kind: "failed", error: RallyError.from(thrown).toWire() }));
  });
  post({ kind: "ready" });
}

start().catch((thrown: unknown) => post({ kind: "failed", error: RallyError.from(thrown).toWire() }));
