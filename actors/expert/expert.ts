import { setImmediate as nextEvents } from "node:timers/promises";
import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { isProcessFault } from "../../infra/process-fault.ts";
import { toWireF32, type WireDtype } from "../../infra/tensor.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { FfnShard } from "../../models/stages.ts";
import { AnswerEncoder, BatchDecoder } from "../protocol/hot-messages.ts";
import type { ActivationBatch, ExpertResult } from "../protocol/messages.ts";
import { checkSeal, seal } from "../protocol/seal.ts";
import type { Subjects } from "../protocol/subjects.ts";
import { Coalescer } from "./coalesce.ts";
import { checkPlace, type FfnInput, takeInput } from "./intake.ts";
import { Presence } from "./presence.ts";
import { quietTime } from "./quiet-time.ts";
import { InputPool } from "./input-pool.ts";
import { RowBuffers } from "./row-buffers.ts";

export interface ExpertOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly deployment: string;
  readonly expertId: string;
  readonly config: ModelConfig;
  readonly ffn: FfnShard;
  readonly epoch: () => number;
  readonly maxWaitingBatches: number;
  readonly observer: ExpertObserver;
  /** No memory for a run, or a GPU that was lost: the process is to end, and to start anew. */
  readonly faulted: (error: RallyError) => void;
}

/** Times in milliseconds of `clock.elapsed()`. */
export interface ExpertObserver {
  ran(run: {
    readonly layer: number;
    readonly microBatches: readonly number[];
    readonly rows: number;
    readonly from: number;
    readonly to: number;
    readonly waitMs: number;
  }): void;
  badMessage(reason: string): void;
}

interface WaitingBatch extends FfnInput {
  readonly batch: ActivationBatch;
  readonly reply: string;
  readonly arrivedAt: number;
}

/** Rows of one run at most, over all coalesced batches. */
const MAX_RUN_ROWS = 512;
const OVERLOADED_RETRY_MS = 20;
/** Attention actors have heard the goodbye by then, unless they are in the middle of a long computation. */
const LEAVING_QUIET_MS = 100;
const LEAVING_LIMIT_MS = 1_000;
const LENT = { single: true, borrowed: true, seal } as const;

/** An expert actor's whole life: receive, run, answer. Keeps nothing between messages. */
export class Expert {
  readonly #options: ExpertOptions;
  readonly #waiting: Coalescer<WaitingBatch>;
  readonly #subscriptions: readonly Subscription[];
  readonly #presence: Presence;
  readonly #buffers: RowBuffers;
  readonly #inputs = new InputPool();
  readonly #decoder = new BatchDecoder();
  readonly #encoder: AnswerEncoder;
  #running: Promise<void> | undefined;
  #lastMessageAt = -Infinity;

  constructor(options: ExpertOptions) {
    this.#options = options;
    this.#waiting = new Coalescer({ maxWaiting: options.maxWaitingBatches, maxTokens: MAX_RUN_ROWS });
    this.#buffers = new RowBuffers(options.config);
    const { bus, subjects, expertId } = options;
    this.#encoder = new AnswerEncoder(bus.scratch());
    const { shard } = options.ffn.spec;
    const receive = (message: BusMessage) => this.#receive(message);
    // Replicas of a shard form one queue group, for whoever does not know them; each also has a subject of its own.
    this.#subscriptions = [
      bus.subscribe(subjects.ffn(shard), receive, { queue: `shard-${shard}` }),
      bus.subscribe(subjects.ffn(shard, expertId), receive),
    ];
    this.#presence = new Presence({ bus, subjects, expertId, shard });
  }

  /** Announces itself, once it knows its placement. */
  serve(): void {
    this.#presence.serve();
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Says goodbye, answers what still comes until nothing does, and then what waits. */
  async drain(): Promise<void> {
    this.#presence.leave();
    const lastAt = () => this.#lastMessageAt;
    await quietTime(this.#options.clock, { quietMs: LEAVING_QUIET_MS, limitMs: LEAVING_LIMIT_MS, lastAt });
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#presence.close();
    await this.#running;
  }

  #receive(message: BusMessage): void {
    this.#lastMessageAt = this.#options.clock.elapsed();
    let batch: ActivationBatch;
    try {
      batch = this.#decoder.decode(message.payload);
    } catch (thrown) {
      this.#answerUnreadable(message.reply, RallyError.from(thrown));
      return;
    }
    const reply = message.reply ?? this.#options.subjects.act(batch.attentionId, this.#options.ffn.spec.shard);
    try {
      this.#admit(batch, reply, message);
    } catch (thrown) {
      const refusal = RallyError.from(thrown);
      if (refusal.code === "bad-message" || refusal.code === "corrupted")
        this.#options.observer.badMessage(refusal.message);
      this.#refuse(batch, reply, refusal);
      return;
    }
    this.#running ??= this.#run();
  }

  /** Queues a batch that fits the model, the placement and the clock. */
  #admit(batch: ActivationBatch, reply: string, { payload, isShared }: BusMessage): void {
    const { config, clock, maxWaitingBatches } = this.#options;
    checkPlace(batch, { deployment: this.#options.deployment, epoch: this.#options.epoch(), now: clock.now() });
    // Before its tensors are copied: refusing must stay cheap.
    if (this.#waiting.isFull) {
      throw new RallyError("overloaded", `${maxWaitingBatches} batches wait already`, {
        limit: maxWaitingBatches,
        retryAfterMs: OVERLOADED_RETRY_MS,
      });
    }
    if (isShared !== true) checkSeal("the batch", payload);
    this.#waiting.push({ ...takeInput(batch, config, this.#inputs), batch, reply, arrivedAt: clock.elapsed() });
  }

  async #run(): Promise<void> {
    for (let batches = this.#next(); batches.length > 0; batches = this.#next()) {
      const from = this.#options.clock.elapsed();
      try {
        const output = await this.#compute(batches);
        this.#answerAll(batches, output, from);
      } catch (thrown) {
        const failure = RallyError.from(thrown, "session-failed");
        const isOver = isProcessFault(failure);
        // Another replica may have the memory for it, or this one once it has started anew.
        const said = isOver ? new RallyError("closed", `this expert actor ends: ${failure.message}`) : failure;
        for (const { batch, reply } of batches) this.#refuse(batch, reply, said);
        if (isOver) this.#options.faulted(failure);
      }
      for (const { hidden } of batches) this.#inputs.giveBack(hidden);
      // Graphs block this thread: here answers go out, and batches come in that may share the next run.
      await nextEvents();
    }
    // In the same turn in which nothing waited any more: whoever comes next starts anew.
    this.#running = undefined;
  }

  /** The next batches of one layer, less those that waited too long for anybody to want them. */
  #next(): WaitingBatch[] {
    for (;;) {
      const batches = this.#waiting.take();
      const wanted = batches.filter(({ batch, reply }) => {
        if (batch.deadline >= this.#options.clock.now()) return true;
        this.#refuse(batch, reply, new RallyError("deadline-exceeded", "the deadline passed while the batch waited"));
        return false;
      });
      if (wanted.length > 0 || batches.length === 0) return wanted;
    }
  }

  /** One run of the layer for all batches; rows in batch order. Valid until the next call. */
  async #compute(batches: readonly WaitingBatch[]): Promise<Float32Array> {
    const [first] = batches;
    assert(first !== undefined, "a run has a batch");
    const { layer } = first;
    const { numTokens, hidden, expertIds, expertWeights } = this.#buffers.merge(batches);
    const output = this.#buffers.output(numTokens);
    await this.#options.ffn.forward({ layer, numTokens, hidden, expertIds, expertWeights }, output);
    return output;
  }

  #answerAll(batches: readonly WaitingBatch[], output: Float32Array, from: number): void {
    const { clock, observer, config } = this.#options;
    const to = clock.elapsed();
    let rows = 0;
    let waitMs = 0;
    for (const { batch, numTokens, reply, arrivedAt } of batches) {
      const answer = output.subarray(rows * config.hiddenSize, (rows + numTokens) * config.hiddenSize);
      rows += numTokens;
      waitMs += from - arrivedAt;
      this.#publish(reply, {
        ...this.#header(batch),
        kind: "result",
        output: toWireF32(answer, [numTokens, config.hiddenSize], answerDtype(batch)),
        waitUs: Math.max(0, Math.round((from - arrivedAt) * 1000)),
        computeUs: Math.max(0, Math.round((to - from) * 1000)),
      });
    }
    const microBatches = batches.map(({ batch }) => batch.microBatch);
    observer.ran({ layer: batches[0]?.layer ?? 0, microBatches, rows, from, to, waitMs });
  }

  /** Without a decoded batch only the sender of a request with a reply subject can be told. */
  #answerUnreadable(reply: string | undefined, error: RallyError): void {
    this.#options.observer.badMessage(error.message);
    if (reply === undefined) return;
    this.#refuse({ passId: 0, microBatch: 0, layer: 0, part: 0, attempt: 0 }, reply, error);
  }

  #refuse(batch: Position, reply: string, error: RallyError): void {
    this.#publish(reply, { ...this.#header(batch), kind: "refused", error: error.toWire() });
  }

  #header({ passId, microBatch, layer, part, attempt }: Position) {
    const { expertId, ffn } = this.#options;
    return { passId, microBatch, layer, part, attempt, expertId, shard: ffn.spec.shard };
  }

  #publish(reply: string, result: ExpertResult): void {
    try {
      this.#options.bus.publish(reply, this.#encoder.encode(result), undefined, LENT);
    } catch (thrown) {
      // The attention actor sends again what it still misses.
      this.#options.observer.badMessage(`answer not sent: ${RallyError.from(thrown).message}`);
    }
  }
}

type Position = Pick<ActivationBatch, "passId" | "microBatch" | "layer" | "part" | "attempt">;

/** Answers travel as the question came. */
function answerDtype(batch: ActivationBatch): Exclude<WireDtype, "i32"> {
  return batch.hidden.dtype === "i32" ? "f32" : batch.hidden.dtype;
}
