import type { BusMessage, Subscription } from "../../infra/bus.ts";
import type { Timer } from "../../infra/clock.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { fromWireF32 } from "../../infra/tensor.ts";
import type { SharedExperts } from "../../models/stages.ts";
import { ResultDecoder } from "../protocol/hot-messages.ts";
import type { ExpertResult } from "../protocol/messages.ts";
import { checkSeal } from "../protocol/seal.ts";
import { Credits } from "./credits.ts";
import { bytesPerRow, splitRows } from "./dispatch.ts";
import { combine, type FfnSide, type Trip } from "./ffn-side.ts";
import type { HopObserver } from "./hop-observer.ts";
import { OutputBuffers } from "./output-buffers.ts";
import type { Replica } from "./replicas.ts";
import { isPassing, MAX_REFUSALS, retryAfterMs } from "./retry.ts";
import { Sender, type SenderOptions } from "./sender.ts";
import { createVisit, dueAt, type Leg, putOff, sendOf, type Visit } from "./visit.ts";

export interface RemoteFfnOptions extends SenderOptions {
  readonly epoch: () => number;
  /** Parts in flight per shard; more wait here. */
  readonly creditsPerShard: number;
  /** To be computed here while a batch is with the experts, if the placement says so. */
  readonly sharedExperts?: SharedExperts | undefined;
  readonly observe: HopObserver;
}

/** One timer for all trips: a timer for each would cost more than the trip's messages. */
const TICK_MS = 25;
/** An expert actor that restarts is back within a second or so; asking more often helps nobody. */
const NO_RESPONDERS_RETRY_MS = 100;

/** Dispatch to expert actors over the bus, combine in shard order; sends again what stays unanswered. */
export class RemoteFfn implements FfnSide {
  readonly #options: RemoteFfnOptions;
  readonly #subscriptions: readonly Subscription[];
  /** By micro-batch. */
  readonly #visits = new Map<number, Visit>();
  readonly #credits: Credits<Leg>;
  readonly #buffers: OutputBuffers;
  readonly #bases: OutputBuffers;
  readonly #rowBytes: number;
  readonly #sender: Sender;
  readonly #decoder = new ResultDecoder();
  #timer: Timer | undefined;

  constructor(options: RemoteFfnOptions) {
    this.#options = options;
    this.#rowBytes = bytesPerRow(options);
    this.#buffers = new OutputBuffers(options.numShards);
    this.#bases = new OutputBuffers(options.sharedExperts === undefined ? 0 : 1);
    this.#credits = new Credits(options.numShards, options.creditsPerShard, (leg) => this.#sender.send(leg));
    this.#sender = new Sender(options, {
      joined: (shard) => this.#joined(shard),
      gone: (replica) => this.#gone(replica),
      failed: (visit, error) => this.#fail(visit, error),
    });
    this.#subscriptions = [
      options.bus.subscribe(options.subjects.actAll(options.attentionId), (message) => this.#receive(message)),
      options.bus.onStatus((status) => this.#connection(status !== "disconnected")),
    ];
  }

  get pending(): number {
    let count = 0;
    for (const visit of this.#visits.values()) count += visit.numOpen;
    return count;
  }

  get creditsInUse(): number {
    return this.#credits.inUse;
  }

  forward(trip: Trip, done: (error?: Error) => void): void | Promise<void> {
    const { numShards, hiddenSize, bus, epoch, clock, sharedExperts } = this.#options;
    assert(!this.#visits.has(trip.microBatch), `micro-batch ${trip.microBatch} makes one trip at a time`);
    const parts = splitRows(trip.pass.numTokens, this.#rowBytes, bus.maxPayload);
    const size = trip.pass.numTokens * hiddenSize;
    const [base] = this.#bases.of(trip.microBatch, size);
    const outputs = this.#buffers.of(trip.microBatch, size);
    const visit = createVisit(trip, { parts, numShards, base, outputs, epoch: epoch(), done });
    this.#visits.set(trip.microBatch, visit);
    for (const leg of visit.legs) this.#credits.take(leg.shard, leg);
    this.#timer ??= clock.after(TICK_MS, () => this.#tick());
    if (sharedExperts !== undefined) return this.#share(visit, sharedExperts);
  }

  abandon(microBatch: number): void {
    const visit = this.#visits.get(microBatch);
    if (visit !== undefined) this.#leave(visit);
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#sender.close();
    this.#timer?.cancel();
    this.#timer = undefined;
    for (const visit of this.#visits.values()) this.#leave(visit);
  }

  async #share(visit: Visit, sharedExperts: SharedExperts): Promise<void> {
    const { clock, observe } = this.#options;
    const { pass, layer, microBatch } = visit.trip;
    // What was published leaves for the server now, not after the computation.
    await Promise.resolve();
    const from = clock.elapsed();
    await sharedExperts.forward(pass, layer, visit.base);
    observe.computed("shared", microBatch, layer, from, clock.elapsed());
    if (this.#visits.get(microBatch) !== visit) return;
    visit.isBased = true;
    this.#finish(visit);
  }

  #leave(visit: Visit): void {
    this.#visits.delete(visit.trip.microBatch);
    // Backwards, so that a returning credit does not send a leg that is about to be given up too.
    for (let i = visit.legs.length - 1; i >= 0; i--) {
      const leg = visit.legs[i] as Leg;
      if (!leg.answered) this.#credits.release(leg.shard, leg);
    }
  }

  #fail(visit: Visit, error: RallyError): void {
    if (this.#visits.get(visit.trip.microBatch) !== visit) return;
    this.#leave(visit);
    visit.done(error);
  }

  #receive(message: BusMessage): void {
    if (message.noResponders) {
      this.#unreachable(message.subject);
      return;
    }
    try {
      this.#accept(this.#decoder.decode(message.payload), message);
    } catch (thrown) {
      this.#options.observe.badMessage(RallyError.from(thrown).message);
    }
  }

  #accept(result: ExpertResult, { payload, isShared }: BusMessage): void {
    const send = this.#sender.heard(result);
    const visit = this.#visits.get(result.microBatch);
    if (visit === undefined || visit.trip.passId !== result.passId || visit.trip.layer !== result.layer) return;
    const { numShards } = this.#options;
    const leg = result.shard < numShards ? visit.legs[result.part * numShards + result.shard] : undefined;
    // Late answers are as good as any, but not those from before the placement changed.
    if (leg === undefined || leg.answered || result.attempt < visit.firstAttempt) return;
    try {
      if (isShared !== true) checkSeal(`the answer of ${result.expertId}`, payload);
    } catch (thrown) {
      this.#unreadable(leg, result, thrown);
      return;
    }
    if (result.kind === "refused") this.#refused(leg, result, RallyError.fromWire(result.error));
    else {
      const { sentAt } = send ?? sendOf(leg, result.attempt) ?? leg;
      this.#answered(leg, result, { bytes: payload.length, sentAt });
    }
  }

  #answered(
    leg: Leg,
    result: ExpertResult & { readonly kind: "result" },
    { bytes, sentAt }: { readonly bytes: number; readonly sentAt: number },
  ): void {
    const { hiddenSize, clock, observe } = this.#options;
    const { visit, shard } = leg;
    const { from, count } = leg.rows;
    const rows = (visit.outputs[shard] as Float32Array).subarray(from * hiddenSize, (from + count) * hiddenSize);
    try {
      fromWireF32(result.output, [count, hiddenSize], rows);
    } catch (thrown) {
      this.#unreadable(leg, result, thrown);
      return;
    }
    const answeredAt = clock.elapsed();
    this.#sender.took(leg, answeredAt - sentAt);
    leg.answered = true;
    visit.numOpen--;
    this.#credits.release(shard, leg);
    observe.hop({
      microBatch: result.microBatch,
      layer: result.layer,
      shard,
      sentAt,
      answeredAt,
      expertMs: (result.waitUs + result.computeUs) / 1000,
      bytes: leg.bytes + bytes,
    });
    this.#finish(visit);
  }

  /** Once all is there. */
  #finish({ numOpen, isBased, trip, base, outputs, done }: Visit): void {
    if (numOpen > 0 || !isBased) return;
    this.#visits.delete(trip.microBatch);
    combine(trip.pass.hidden, base, outputs);
    done();
  }

  #unreadable(leg: Leg, result: ExpertResult, thrown: unknown): void {
    const error = RallyError.from(thrown);
    this.#options.observe.badMessage(`answer of ${result.expertId}: ${error.message}`);
    this.#refused(leg, result, error);
  }

  #refused(leg: Leg, { attempt, expertId }: ExpertResult, error: RallyError): void {
    // A later attempt is under way already.
    if (attempt !== leg.attempt) return;
    const { epoch, clock } = this.#options;
    if (error.code === "stale-epoch" && epoch() !== leg.visit.epoch) return this.#restart(leg.visit);
    // Too little time for a slow expert, or for one whose clock is ahead of ours: the next attempt gets more.
    if (error.code === "deadline-exceeded") leg.numSilences++;
    if (!isPassing(error.code) && ++leg.numRefusals >= MAX_REFUSALS) return this.#fail(leg.visit, error);
    leg.tried.push(expertId);
    if (this.#sender.sendElsewhere(leg)) return;
    putOff(leg, clock.elapsed() + retryAfterMs(error));
  }

  /** The placement has changed: what shards have answered so far may not add up with what others answer now. */
  #restart(visit: Visit): void {
    visit.epoch = this.#options.epoch();
    visit.firstAttempt = ++visit.lastAttempt;
    visit.numOpen = visit.legs.length;
    for (const leg of visit.legs) {
      leg.attempt = visit.firstAttempt;
      leg.numRefusals = 0;
      leg.tried.length = 0;
      if (leg.answered) {
        leg.answered = false;
        leg.retryAt = Infinity;
        this.#credits.take(leg.shard, leg);
      } else if (leg.retryAt !== Infinity) {
        this.#options.observe.retry();
        this.#sender.send(leg);
      }
    }
  }

  /** `subject`: where the answer would have come. */
  #unreachable(subject: string): void {
    const { subjects, attentionId } = this.#options;
    const [shard, id] = subject.slice(subjects.actAll(attentionId).length - 1).split(".");
    if (id !== undefined) return this.#sender.unreachable(Number(shard), id);
    const retryAt = this.#options.clock.elapsed() + NO_RESPONDERS_RETRY_MS;
    for (const leg of this.#underWay()) {
      if (leg.shard !== Number(shard) || leg.sends.at(-1)?.replica !== undefined) continue;
      leg.isUnheard = true;
      putOff(leg, retryAt);
    }
  }

  /** What it had is lost, unless another has it too. */
  #gone(replica: Replica): void {
    if (!this.#sender.connected) return;
    for (const leg of this.#underWay()) {
      if (leg.sends.at(-1)?.replica === replica) this.#sender.sendAgain(leg);
    }
  }

  /** What nobody was there for need not wait any longer. */
  #joined(shard: number): void {
    for (const leg of this.#underWay()) {
      if (leg.shard === shard && leg.isUnheard) this.#sender.sendAgain(leg);
    }
  }

  #connection(connected: boolean): void {
    this.#sender.connection(connected);
    if (!connected) return;
    // Nobody knows which of them arrived.
    for (const leg of this.#underWay()) {
      leg.tried.length = 0;
      this.#sender.sendAgain(leg);
    }
  }

  #tick(): void {
    const { clock, epoch, dispatchTimeoutMs } = this.#options;
    this.#timer = undefined;
    const now = clock.elapsed();
    for (const leg of this.#sender.connected ? [...this.#underWay()] : []) {
      if (leg.answered || (now < leg.retryAt && now < leg.lateAt)) continue;
      if (epoch() !== leg.visit.epoch) this.#restart(leg.visit);
      else if (now < leg.retryAt) this.#sender.late(leg);
      else {
        // A refusal or a "no responders" has moved retryAt: only a whole wait in vain is silence.
        if (now - leg.sentAt >= dispatchTimeoutMs) this.#sender.silent(leg);
        this.#sender.sendAgain(leg);
      }
    }
    if (this.#visits.size === 0) return;
    let due = Infinity;
    for (const leg of this.#underWay()) due = Math.min(due, dueAt(leg));
    this.#timer = clock.after(Math.min(TICK_MS, Math.max(1, due - now)), () => this.#tick());
  }

  /** Legs that have been sent and not answered. */
  *#underWay(): Generator<Leg> {
    for (const visit of this.#visits.values()) {
      for (const leg of visit.legs) if (!leg.answered && leg.retryAt !== Infinity) yield leg;
    }
  }
}
