import { AttentionActor, type AttentionActorOptions } from "../../actors/attention/attention-actor.ts";
import { Engine } from "../../actors/attention/engine.ts";
import { LocalFfn } from "../../actors/attention/local-ffn.ts";
import { decodeLogEvent } from "../../actors/protocol/decode.ts";
import type { EndEvent, GenerateRequest, LogEvent, TokenEvent } from "../../actors/protocol/messages.ts";
import { ACK_WAIT_MS, openRequestQueue, openTokenLog } from "../../actors/protocol/streams.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../infra/clock.ts";
import { encode } from "../../infra/codec.ts";
import type { WorkQueue } from "../../infra/durable.ts";
import { MemoryBus } from "../../infra/memory-bus.ts";
import { MemoryDurable } from "../../infra/memory-durable.ts";
import { DEFAULT_SAMPLING } from "../../models/sampling/params.ts";
import { fakeConfig, FakeShard, fakeSpecs, FakeStages } from "./fake-model.ts";
import { FakeTokenizer } from "./fake-tokenizer.ts";
import { FlakyLog } from "./flaky-log.ts";
import { Freezer } from "./freezer.ts";
import { quiet } from "./turns.ts";

const subjects = subjectsOf("d");
export const START = 1_000_000;

/** What a request's log says, checked for the promise "each index once, in order, then exactly one ending". */
export interface Story {
  readonly ids: readonly number[];
  /** Of all tokens and the ending. */
  readonly text: string;
  readonly ends: readonly EndEvent[];
  readonly owners: readonly string[];
  readonly logprobs: readonly unknown[];
}

export interface ActorOptions extends Partial<AttentionActorOptions> {
  /** Passes that the engine may make until the next `go`. */
  readonly budget?: number;
}

/** An attention actor with an engine of its own, which makes as many passes as it is allowed. */
export class RunningActor {
  readonly stages = new FakeStages();
  readonly bus: MemoryBus;
  readonly log: FlakyLog;
  readonly engine: Engine;
  readonly actor: AttentionActor;
  readonly warnings: string[] = [];
  readonly admitted: number[] = [];
  readonly #process: Freezer;
  #open: (() => void) | undefined;
  #budget: number;

  constructor(bench: AttentionBench, id: string, { budget = Infinity, ...options }: ActorOptions) {
    const process = new Freezer(bench.clock);
    const maxSequences = options.maxSequences ?? 8;
    this.#process = process;
    this.#budget = budget;
    this.bus = bench.bus.connect();
    this.log = new FlakyLog(bench.log, () => process.running());
    this.stages.gate = (layer) => this.#gate(layer);
    this.engine = new Engine({
      stages: this.stages,
      ffn: new LocalFfn(fakeSpecs(1).map((spec) => new FakeShard(spec))),
      clock: process,
      listener: {
        tokens: (tokens) => this.actor.tokens(tokens),
        failed: (key, error) => this.actor.failed(key, error),
      },
      observer: { computed: () => undefined, waited: () => undefined },
      maxSequences,
      maxMicroBatches: 2,
      microBatches: () => 2,
      prefillTokens: 32,
    });
    this.actor = new AttentionActor({
      bus: this.bus,
      queue: {
        put: (jobId, payload) => bench.queue.put(jobId, payload),
        depth: () => bench.queue.depth(),
        peek: (afterSeq) => bench.queue.peek(afterSeq),
        progress: () => bench.queue.progress(),
        discard: (seq) => bench.queue.discard(seq),
        pull: async (max, waitMs) => {
          await process.running();
          const jobs = await bench.queue.pull(max, waitMs);
          await process.running();
          return jobs;
        },
      },
      log: this.log,
      clock: process,
      subjects,
      deployment: "d",
      attentionId: id,
      config: fakeConfig,
      tokenizer: new FakeTokenizer(),
      engine: {
        admit: (engineRequest) => {
          this.admitted.push(engineRequest.key);
          this.engine.admit(engineRequest);
        },
        release: (key) => this.engine.release(key),
      },
      maxSequences,
      ackWaitMs: ACK_WAIT_MS,
      appendsPerSecond: Infinity,
      warn: (text) => void this.warnings.push(text),
      ...options,
    });
    this.engine.start();
    this.actor.start();
  }

  /** Lets the engine make `passes` more passes, or all. */
  go(passes = Infinity): void {
    this.#budget = passes;
    this.#open?.();
  }

  /** As SIGSTOP, or for ever as SIGKILL: nothing is computed, sent or acknowledged until `thaw`. */
  freeze(): void {
    this.#process.freeze();
  }

  thaw(): void {
    this.#process.thaw();
  }

  async #gate(layer: number): Promise<void> {
    await this.#process.running();
    // By then the tokens of the pass before have been told.
    if (layer !== 1) return;
    while (this.#budget <= 0) await new Promise<void>((resolve) => (this.#open = resolve));
    this.#budget--;
  }
}

/** One deployment in memory. */
export class AttentionBench {
  readonly clock: SimulatedClock;
  readonly bus: MemoryBus;
  readonly client: MemoryBus;
  readonly actors: RunningActor[] = [];
  readonly log: FlakyLog;
  readonly queue: WorkQueue;

  private constructor(log: FlakyLog, queue: WorkQueue, clock: SimulatedClock) {
    this.log = log;
    this.queue = queue;
    this.clock = clock;
    this.bus = new MemoryBus({ clock });
    this.client = this.bus.connect();
  }

  static async open(): Promise<AttentionBench> {
    const clock = new SimulatedClock();
    clock.advance(START);
    const durable = new MemoryDurable({ clock });
    const log = new FlakyLog(await openTokenLog(durable, subjects));
    return new AttentionBench(log, await openRequestQueue(durable, subjects), clock);
  }

  actor(id: string, options: ActorOptions = {}): RunningActor {
    const running = new RunningActor(this, id, options);
    this.actors.push(running);
    return running;
  }

  async put(job: GenerateRequest | Uint8Array, id = "raw"): Promise<void> {
    if (job instanceof Uint8Array) await this.queue.put(id, job);
    else await this.queue.put(job.requestId, encode(job));
    await quiet();
  }

  cancel(requestId: string): void {
    this.client.publish(subjects.cancel(requestId), new Uint8Array());
  }

  /** Time passes in small steps, so that everybody can act on each. */
  async advance(ms: number, step = 100): Promise<void> {
    for (let passed = 0; passed < ms; passed += step) {
      this.clock.advance(Math.min(step, ms - passed));
      await quiet(8);
    }
  }

  async events(requestId: string): Promise<LogEvent[]> {
    return (await this.log.read(subjects.tokens(requestId))).map(({ payload }) => decodeLogEvent(payload));
  }

  async story(requestId: string): Promise<Story> {
    const events = await this.events(requestId);
    const ids: number[] = [];
    let text = "";
    for (const [i, event] of events.entries()) {
      if (event.kind !== "tokens") {
        if (i !== events.length - 1) throw new Error(`${requestId}: something follows its ending`);
        if (event.kind === "completed") text += event.text;
        continue;
      }
      if (event.index !== ids.length) throw new Error(`${requestId}: ${event.index} follows ${ids.length} tokens`);
      ids.push(...event.ids);
      text += event.texts.join("");
    }
    const ends = events.filter((event): event is EndEvent => event.kind !== "tokens");
    const tokens = events.filter((event): event is TokenEvent => event.kind === "tokens");
    return {
      ids,
      text,
      ends,
      owners: [...new Set(events.map(({ owner }) => owner))],
      logprobs: tokens.flatMap(({ logprobs }) => logprobs ?? []),
    };
  }

  async close(): Promise<void> {
    for (const running of this.actors) {
      running.thaw();
      const drained = running.actor.drain(0);
      running.go();
      await this.advance(1500, 250);
      await drained;
      await running.engine.close();
    }
  }
}

/** Waits until each has its ending, letting `ms` of time pass if need be. */
export async function ended(bench: AttentionBench, requestIds: readonly string[], ms = 0): Promise<void> {
  for (let waited = 0; waited <= ms; waited += 100) {
    for (let turns = 0; turns < 60; turns++) {
      await quiet(5);
      const stories = await Promise.all(requestIds.map((id) => bench.story(id)));
      if (stories.every(({ ends }) => ends.length === 1)) return;
    }
    await bench.advance(100);
  }
  throw new Error(`not all of ${requestIds.join(", ")} have ended`);
}

export function request(requestId: string, change: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    kind: "generate",
    requestId,
    deployment: "d",
    prompt: `once upon ${requestId}`,
    maxTokens: 12,
    sampling: { ...DEFAULT_SAMPLING, temperature: 0 },
    stop: [],
    deadline: START + 60_000,
    ...change,
  };
}
