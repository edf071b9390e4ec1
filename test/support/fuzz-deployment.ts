import { AttentionActor } from "../../actors/attention/attention-actor.ts";
import { Engine } from "../../actors/attention/engine.ts";
import { RemoteFfn } from "../../actors/attention/remote-ffn.ts";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { Expert } from "../../actors/expert/expert.ts";
import { checkModel, Placements } from "../../actors/protocol/placement.ts";
import { offerService } from "../../actors/protocol/service.ts";
import { ACK_WAIT_MS, openRequestQueue, openTokenLog } from "../../actors/protocol/streams.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../infra/clock.ts";
import type { DurableLog, KeyValue, LogOptions, WorkQueue } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { MemoryBus } from "../../infra/memory-bus.ts";
import { MemoryDurable } from "../../infra/memory-durable.ts";
import { fakeConfig, FakeShard, fakeSpecs, FakeStages } from "./fake-model.ts";
import { FakeTokenizer } from "./fake-tokenizer.ts";
import { quiet } from "./turns.ts";

export const EPOCH = 1;
const NUM_SHARDS = 2;
const MODEL_HASH = "abc";
const LOG_AGE_MS = 180_000;

/** Forgets logs so early that a long run comes to a steady state. */
class ShortLived extends MemoryDurable {
  override log(options: LogOptions): Promise<DurableLog> {
    return super.log({ ...options, maxAgeMs: LOG_AGE_MS });
  }
}

/** All of a deployment's actors in one process, over a bus and a store that anybody may write to. */
export class FuzzDeployment {
  readonly clock = new SimulatedClock();
  readonly subjects = subjectsOf("d", EPOCH);
  /** The attacker's connection. */
  readonly bus: MemoryBus;
  readonly client: RallyClient;
  readonly log: DurableLog;
  readonly queue: WorkQueue;
  readonly placements: KeyValue;
  /** Messages that were refused, by whom. */
  readonly numBad = { expert: 0, dispatch: 0, placement: 0 };
  readonly #engine: Engine;
  readonly #ffn: RemoteFfn;
  readonly #experts: readonly Expert[];
  readonly #actor: AttentionActor;

  private constructor(bus: MemoryBus, durable: MemoryDurable, clock: SimulatedClock, opened: Opened) {
    const { subjects } = this;
    this.clock = clock;
    this.bus = bus.connect();
    this.log = opened.log;
    this.queue = opened.queue;
    this.placements = opened.placements;
    this.client = new RallyClient({ bus: bus.connect(), durable, deployment: "d", clock });
    const common = { clock, subjects, deployment: "d", config: fakeConfig };
    const shards = fakeSpecs(NUM_SHARDS).map((spec) => new FakeShard(spec));
    this.#experts = shards.map(
      (ffn) =>
        new Expert({
          ...common,
          bus: bus.connect(),
          expertId: `e${ffn.spec.shard}`,
          ffn,
          epoch: () => EPOCH,
          maxWaitingBatches: 16,
          observer: { ran: () => undefined, badMessage: () => void this.numBad.expert++ },
          faulted: () => undefined,
        }),
    );
    for (const expert of this.#experts) expert.serve();
    this.#ffn = new RemoteFfn({
      ...common,
      bus: bus.connect(),
      attentionId: "a0",
      epoch: () => EPOCH,
      numShards: NUM_SHARDS,
      hiddenSize: fakeConfig.hiddenSize,
      topK: fakeConfig.topK,
      wireDtype: "f32",
      dispatchTimeoutMs: 2_000,
      creditsPerShard: 4,
      observe: {
        computed: () => undefined,
        hop: () => undefined,
        retry: () => undefined,
        badMessage: () => void this.numBad.dispatch++,
      },
    });
    const stages = new FakeStages();
    this.#engine = new Engine({
      stages,
      ffn: this.#ffn,
      clock,
      listener: {
        tokens: (tokens) => {
          // What the fake model writes down for other tests would grow for ever.
          stages.passes.length = 0;
          stages.attended.length = 0;
          for (const shard of shards) shard.batches.length = 0;
          this.#actor.tokens(tokens);
        },
        failed: (key, error) => this.#actor.failed(key, error),
      },
      observer: { computed: () => undefined, waited: () => undefined },
      maxSequences: 16,
      maxMicroBatches: 2,
      microBatches: () => 2,
      prefillTokens: 64,
    });
    this.#actor = new AttentionActor({
      ...common,
      bus: bus.connect(),
      queue: opened.queue,
      log: opened.log,
      attentionId: "a0",
      tokenizer: new FakeTokenizer(),
      engine: this.#engine,
      maxSequences: 16,
      ackWaitMs: ACK_WAIT_MS,
      appendsPerSecond: Infinity,
      warn: () => undefined,
    });
    offerService(bus.connect(), SERVICE, async () => ({ numRequests: 1, numErrors: 0, processingMs: 1, data: {} }));
    this.#engine.start();
    this.#actor.start();
  }

  static async open(): Promise<FuzzDeployment> {
    const clock = new SimulatedClock();
    clock.advance(1_000_000);
    const bus = new MemoryBus({ clock });
    const durable = new ShortLived({ clock });
    const subjects = subjectsOf("d", EPOCH);
    const placements = await Placements.open(durable, subjects);
    await placements.ensure({ deployment: "d", modelHash: MODEL_HASH, shards: fakeSpecs(2).map((s) => s.experts) });
    const deployment = new FuzzDeployment(bus, durable, clock, {
      log: await openTokenLog(durable, subjects),
      queue: await openRequestQueue(durable, subjects),
      placements: await durable.keyValue(subjects.placementBucket),
    });
    for (const key of ["current", "next"] as const) {
      await placements.watch(
        key,
        (placement) => {
          try {
            checkModel(placement, MODEL_HASH);
          } catch (thrown) {
            if (!(thrown instanceof RallyError)) throw thrown;
          }
        },
        () => void deployment.numBad.placement++,
      );
    }
    return deployment;
  }

  get numBadRequests(): number {
    return this.#actor.counts.badMessages;
  }

  /** Lets everybody work, and some time pass. */
  async turn(ms: number): Promise<void> {
    await quiet(10);
    this.clock.advance(ms);
  }

  /** What is still held when there should be nothing. */
  async held(): Promise<Readonly<Record<string, unknown>>> {
    const { activeSequences, kvTokens, underWay } = this.#engine.counts;
    return {
      owned: this.#actor.counts.owned,
      activeSequences,
      kvTokens,
      underWay,
      pending: this.#ffn.pending,
      credits: this.#ffn.creditsInUse,
      waiting: this.#experts.reduce((sum, { waiting }) => sum + waiting, 0),
      jobs: await this.queue.depth(),
    };
  }

  async close(): Promise<void> {
    const closing = Promise.all([this.client.close(), this.#actor.drain(0), ...this.#experts.map((e) => e.drain())]);
    for (let i = 0; i < 40; i++) await this.turn(100);
    await closing;
    await this.#engine.close();
    this.#ffn.close();
  }
}

interface Opened {
  readonly log: DurableLog;
  readonly queue: WorkQueue;
  readonly placements: KeyValue;
}

const SERVICE = {
  name: "rally-attention",
  id: "a0",
  version: "0.1.0",
  description: "fuzzed",
  metadata: { deployment: "d" },
  endpoint: { name: "cancel", subject: "rally.d.cancel", queueGroup: "a0" },
  started: "2026-01-01T00:00:00.000Z",
} as const;
