import { setImmediate as nextEvents } from "node:timers/promises";
import { assert, RallyError } from "../../infra/errors.ts";
import type { EngineOptions } from "./engine-options.ts";
import { createMicroBatch, isForsaken, layOut, type MicroBatch, sequencesDue } from "./micro-batch.ts";
import { nextPhase } from "./ping-pong.table.ts";
import type { PingPongEvent } from "./ping-pong.machine.ts";
import { Roster } from "./roster.ts";
import type { EngineRequest, EngineToken } from "./sequence.ts";
import { Sequences } from "./sequences.ts";

/** For so long the event loop may wait for its turn in the middle of a pass. */
const MAX_BLOCKED_MS = 4;

/**
 * The layer loop of an attention actor: attend, dispatch, combine. Micro-batches take turns: one is attended while the others
 * are with the experts. Owns sequences and KV; knows nothing of text, NATS or the log.
 */
export class Engine {
  readonly #options: EngineOptions;
  readonly #microBatches: readonly MicroBatch[];
  readonly #sequences: Sequences;
  readonly #roster: Roster;
  /** Micro-batches that wait for the attention side, first come first served; each at most once. */
  readonly #ready: MicroBatch[] = [];
  /** Sampled, and not yet told. */
  #untold: EngineToken[] = [];
  #wake: (() => void) | undefined;
  /** When the event loop last had its turn, and when this thread last computed. `clock.elapsed()` */
  #turnedAt: number;
  #computedAt: number;
  #closed = false;
  #loop: Promise<void> | undefined;
  #nextPassId: number;
  #transitions = 0;
  #passes = 0;
  #decodeTokens = 0;
  #prefillTokens = 0;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#sequences = new Sequences(options.stages.config, options.maxSequences);
    this.#roster = new Roster(options.maxKvTokens ?? Infinity);
    this.#microBatches = Array.from({ length: options.maxMicroBatches }, (_, index) =>
      createMicroBatch(index, options.stages, options),
    );
    this.#turnedAt = this.#computedAt = options.clock.elapsed();
    // Above every id of an earlier process with the same attention id, whose answers may still be on their way.
    this.#nextPassId = Math.floor(options.clock.now()) * 1000 + 1;
  }

  /** Sequences that may still be admitted. */
  get free(): number {
    return this.#sequences.free;
  }

  get counts() {
    return {
      passes: this.#passes,
      /** Tokens sampled, each prompt's first included. */
      decodeTokens: this.#decodeTokens,
      prefillTokens: this.#prefillTokens,
      transitions: this.#transitions,
      /** With a KV slot, or about to have one. */
      activeSequences: this.#sequences.size - this.#roster.numWaiting,
      preemptions: this.#roster.preemptions,
      kvTokens: this.#microBatches.reduce((sum, { schedule }) => sum + schedule.numCachedTokens, 0),
      underWay: this.#underWay,
    };
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Ends after what is being computed now. Sequences still here are forgotten without a word. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#wake?.();
    await this.#loop;
    this.#sequences.clear();
    for (const microBatch of this.#microBatches) this.#abandon(microBatch);
    this.#ready.length = 0;
  }

  /** RallyError `overloaded` without a free place, `context-exceeded` when prompt and output cannot fit. */
  admit(request: EngineRequest): void {
    if (this.#closed) throw new RallyError("closed", "the engine is closed");
    this.#roster.add(this.#sequences.add(request));
    this.#settle();
  }

  /** Ends a sequence from outside (stop string, cancel, deadline). Unknown keys have ended already: nothing happens. */
  release(key: number): void {
    if (!this.#sequences.remove(key)) return;
    this.#roster.remove(key);
    this.#dropForsaken();
    this.#settle();
  }

  /** Sequences have come, grown or gone: sees to it that the right ones run. */
  #settle(): void {
    if (this.#closed) return;
    const { start, preempt } = this.#roster.settle((sequence) => this.#sequences.renew(sequence));
    if (preempt.length > 0) this.#dropForsaken();
    for (const sequence of start) {
      const microBatch = this.#leastLoaded();
      microBatch.schedule.join(sequence);
      this.#begin(microBatch);
    }
  }

  /** A pass that is with the experts may never come back; one that waits for its turn here is dropped when that comes. */
  #dropForsaken(): void {
    for (const microBatch of this.#microBatches) {
      if (microBatch.phase === "dispatched" && isForsaken(microBatch)) this.#drop(microBatch);
    }
  }

  get #underWay(): boolean {
    return this.#microBatches.some(({ phase }) => phase !== "idle");
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      const microBatch = this.#ready.shift();
      if (microBatch === undefined) {
        this.#tell();
        await this.#wait();
      } else {
        await this.#turn(microBatch);
        if (this.#ready.length > 0 && this.#isDue(microBatch)) await this.#nextEvents();
      }
    }
    this.#tell();
  }

  /**
   * Whoever is told begins to work, on a core that this thread's graphs may want. So it happens when a batch has just gone to the
   * experts, or nothing is left to do.
   */
  #tell(): void {
    if (this.#untold.length === 0) return;
    const tokens = this.#untold;
    this.#untold = [];
    this.#options.listener.tokens(tokens);
  }

  /**
   * Graphs block this thread, so answers, admissions and releases come in, and what was dispatched goes out, when the event loop
   * turns. A turn costs as much as a small layer's arithmetic outside its graphs: in the middle of a pass that stays in this
   * thread it can wait a little. Without anything to compute it comes by itself.
   */
  #isDue({ phase, layer }: MicroBatch): boolean {
    const isAmidPass = (phase === "attending" || phase === "sampling") && layer > 0;
    return !isAmidPass || this.#computedAt - this.#turnedAt >= MAX_BLOCKED_MS;
  }

  async #nextEvents(): Promise<void> {
    await nextEvents();
    this.#turnedAt = this.#options.clock.elapsed();
  }

  async #wait(): Promise<void> {
    const { clock, observer } = this.#options;
    const isBubble = this.#underWay;
    const from = clock.elapsed();
    await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = undefined;
    this.#turnedAt = clock.elapsed();
    if (isBubble) observer.waited(from, this.#turnedAt);
  }

  async #turn(microBatch: MicroBatch): Promise<void> {
    try {
      if (isForsaken(microBatch)) this.#drop(microBatch);
      else if (microBatch.phase === "sampling") await this.#sample(microBatch);
      else await this.#attend(microBatch);
    } catch (error) {
      this.#fail(microBatch, RallyError.from(error));
    }
  }

  async #attend(microBatch: MicroBatch): Promise<void> {
    const { stages, clock, observer } = this.#options;
    const { schedule, layer, plan } = microBatch;
    // A chunk of a prompt takes too long to wait for.
    if (plan?.kind === "prefill") this.#tell();
    const from = clock.elapsed();
    microBatch.pass ??= layOut(microBatch, stages);
    await stages.attend(microBatch.pass, layer);
    this.#computedAt = clock.elapsed();
    observer.computed("attention", schedule.index, layer, from, this.#computedAt);
    if (this.#closed) return;
    // Released while it was attended.
    if (isForsaken(microBatch)) this.#drop(microBatch);
    else if (stages.completes(layer)) this.#combined(microBatch, "completed");
    else {
      await this.#dispatch(microBatch);
      this.#tell();
    }
  }

  #dispatch(microBatch: MicroBatch): void | Promise<void> {
    this.#advance(microBatch, "attended");
    const { pass, layer, passId, schedule } = microBatch;
    assert(pass !== undefined, "a dispatched micro-batch has a pass");
    return this.#options.ffn.forward({ passId, microBatch: schedule.index, layer, pass }, (error) => {
      assert(microBatch.passId === passId && microBatch.layer === layer, "an abandoned trip does not come back");
      if (error === undefined) this.#combined(microBatch, "answered");
      else this.#fail(microBatch, RallyError.from(error));
    });
  }

  #combined(microBatch: MicroBatch, how: "answered" | "completed"): void {
    this.#advance(microBatch, how);
    microBatch.layer++;
    const isLast = microBatch.layer === this.#options.stages.config.numLayers;
    this.#advance(microBatch, isLast ? "lastLayer" : "nextLayer");
    this.#enqueue(microBatch);
  }

  /** The head for every sequence whose last known token went through; the rest of a prompt needs none. */
  async #sample(microBatch: MicroBatch): Promise<void> {
    const { stages, clock, observer, listener } = this.#options;
    const { plan, pass, schedule } = microBatch;
    assert(plan !== undefined && pass !== undefined, "a sampling micro-batch has a pass");
    // Where every layer is computed here nothing is dispatched.
    this.#tell();
    const from = clock.elapsed();
    schedule.finish(plan);
    this.#passes++;
    if (plan.kind === "prefill") this.#prefillTokens += pass.numTokens;
    const { due, rows } = sequencesDue(plan);
    const logits = due.length === 0 ? undefined : await stages.head(pass, rows);
    const tokens =
      logits === undefined
        ? []
        : this.#sequences.draw(due, logits, (key, error) => {
            this.#roster.remove(key);
            listener.failed(key, error);
          });
    this.#decodeTokens += tokens.length;
    for (const { key, finish } of tokens) if (finish !== undefined) this.#roster.remove(key);
    schedule.settle();
    this.#computedAt = clock.elapsed();
    observer.computed("head", schedule.index, microBatch.layer, from, this.#computedAt);
    this.#advance(microBatch, "sampled");
    microBatch.plan = undefined;
    microBatch.pass = undefined;
    this.#settle();
    this.#end(microBatch);
    this.#untold.push(...tokens);
  }

  /** Starts a pass if the micro-batch is idle and has work. */
  #begin(microBatch: MicroBatch): void {
    if (microBatch.phase !== "idle" || this.#closed) return;
    const plan = microBatch.schedule.next();
    if (plan === undefined) return;
    microBatch.plan = plan;
    microBatch.layer = 0;
    microBatch.passId = this.#nextPassId++;
    this.#advance(microBatch, "start");
    this.#enqueue(microBatch);
  }

  #end(microBatch: MicroBatch): void {
    this.#begin(microBatch);
    // So that time without any work is not taken for a bubble.
    if (microBatch.phase === "idle") this.#wake?.();
  }

  /** Ends a pass that nobody wants any more. The micro-batch must not be in the queue. */
  #drop(microBatch: MicroBatch): void {
    this.#abandon(microBatch);
    this.#end(microBatch);
  }

  /** A graph that fails takes the sequences of its pass with it and leaves the other micro-batches alone. */
  #fail(microBatch: MicroBatch, error: RallyError): void {
    const lost = (microBatch.plan?.sequences ?? []).filter(({ gone }) => !gone);
    for (const { request } of lost) {
      this.#sequences.remove(request.key);
      this.#roster.remove(request.key);
    }
    this.#drop(microBatch);
    this.#settle();
    this.#tell();
    for (const { request } of lost) this.#options.listener.failed(request.key, error);
  }

  #abandon(microBatch: MicroBatch): void {
    if (microBatch.phase === "dispatched") this.#options.ffn.abandon(microBatch.schedule.index);
    if (microBatch.phase !== "idle") this.#advance(microBatch, "abandon");
    microBatch.plan = undefined;
    microBatch.pass = undefined;
    if (this.#closed) assert(microBatch.schedule.next() === undefined, "a closed engine has no sequences");
  }

  #advance(microBatch: MicroBatch, event: PingPongEvent["type"]): void {
    microBatch.phase = nextPhase(microBatch.phase, event);
    this.#transitions++;
  }

  #enqueue(microBatch: MicroBatch): void {
    this.#ready.push(microBatch);
    this.#wake?.();
  }

  #leastLoaded(): MicroBatch {
    const candidates = this.#microBatches.slice(0, Math.max(1, this.#options.microBatches()));
    return candidates.reduce((least, candidate) =>
      candidate.schedule.numSequences < least.schedule.numSequences ? candidate : least,
    );
  }
}
