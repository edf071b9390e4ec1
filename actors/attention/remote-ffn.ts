import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import type { Clock, Timer } from "../../infra/clock.ts";
import { encode } from "../../infra/codec.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { fromWireF32 } from "../../infra/tensor.ts";
import { decodeExpertResult } from "../protocol/decode.ts";
import type { ExpertResult } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";
import { Credits } from "./credits.ts";
import { activationBatch, bytesPerRow, splitRows, type DispatchOptions } from "./dispatch.ts";
import { combine, type FfnSide, type Trip } from "./ffn-side.ts";
import { OutputBuffers } from "./output-buffers.ts";
import { isPassing, MAX_REFUSALS, patienceMs, retryAfterMs } from "./retry.ts";
import { createVisit, type Leg, type Visit } from "./visit.ts";

export interface RemoteFfnOptions extends DispatchOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly epoch: () => number;
  readonly numShards: number;
  /** A dispatch unanswered for this long is sent again. */
  readonly dispatchTimeoutMs: number;
  /** Parts in flight per shard; more wait here. */
  readonly creditsPerShard: number;
  readonly observe: HopObserver;
}

/** Told of every finished hop; times in milliseconds of `clock.elapsed()`. */
export interface HopObserver {
  hop(hop: {
    readonly microBatch: number;
    readonly layer: number;
    readonly shard: number;
    readonly sentAt: number;
    readonly answeredAt: number;
    readonly expertMs: number;
    readonly bytes: number;
  }): void;
  retry(): void;
  badMessage(reason: string): void;
}

/** One timer for all trips: a timer for each would cost more than the trip's messages. */
const TICK_MS = 25;
/** An expert actor that restarts is back within a second or so; asking more often helps nobody. */
const NO_RESPONDERS_RETRY_MS = 100;

/** Dispatch to expert actors over the bus, combine in shard order; re-sends what stays unanswered. */
export class RemoteFfn implements FfnSide {
  readonly #options: RemoteFfnOptions;
  readonly #subscriptions: readonly Subscription[];
  /** By micro-batch. */
  readonly #visits = new Map<number, Visit>();
  readonly #credits: Credits<Leg>;
  readonly #buffers: OutputBuffers;
  readonly #rowBytes: number;
  /** Also true once the bus is closed: then publishing says so, and trips fail instead of waiting for ever. */
  #connected = true;
  #timer: Timer | undefined;

  constructor(options: RemoteFfnOptions) {
    this.#options = options;
    this.#rowBytes = bytesPerRow(options);
    this.#buffers = new OutputBuffers(options.numShards);
    this.#credits = new Credits(options.numShards, options.creditsPerShard, (leg) => this.#send(leg));
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

  forward(trip: Trip, done: (error?: Error) => void): void {
    const { numShards, hiddenSize, bus, epoch, clock } = this.#options;
    assert(!this.#visits.has(trip.microBatch), `micro-batch ${trip.microBatch} makes one trip at a time`);
    const parts = splitRows(trip.pass.numTokens, this.#rowBytes, bus.maxPayload);
    const outputs = this.#buffers.of(trip.microBatch, trip.pass.numTokens * hiddenSize);
    const visit = createVisit(trip, { parts, numShards, outputs, epoch: epoch(), done });
    this.#visits.set(trip.microBatch, visit);
    for (const leg of visit.legs) this.#credits.take(leg.shard, leg);
    this.#timer ??= clock.after(TICK_MS, () => this.#tick());
  }

  abandon(microBatch: number): void {
    const visit = this.#visits.get(microBatch);
    if (visit !== undefined) this.#leave(visit);
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#timer?.cancel();
    this.#timer = undefined;
    for (const visit of this.#visits.values()) this.#leave(visit);
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

  #send(leg: Leg): void {
    const { bus, clock, subjects, attentionId, dispatchTimeoutMs } = this.#options;
    leg.sentAt = clock.elapsed();
    leg.retryAt = leg.sentAt + patienceMs(dispatchTimeoutMs, leg.numSilences);
    // It would be lost; everything is sent again as soon as the connection is back.
    if (!this.#connected) return;
    try {
      const payload = this.#payload(leg);
      leg.bytes = payload.length;
      bus.publish(subjects.ffn(leg.shard), payload, subjects.act(attentionId, leg.shard));
    } catch (thrown) {
      // Not from within: whoever sends may be in the middle of `forward`, or of another trip's answer.
      queueMicrotask(() => this.#fail(leg.visit, RallyError.from(thrown)));
    }
  }

  #payload(leg: Leg): Uint8Array {
    const { visit, part, rows, attempt } = leg;
    const isFirst = attempt === visit.firstAttempt;
    const known = isFirst ? visit.payloads[part] : undefined;
    if (known !== undefined) return known;
    const { clock, dispatchTimeoutMs } = this.#options;
    // An answer later than the next attempt is still good, so experts may work a little beyond it.
    const deadline = Math.ceil(clock.now() + 2 * patienceMs(dispatchTimeoutMs, leg.numSilences));
    const meta = { part, attempt, epoch: visit.epoch, deadline };
    const payload = encode(activationBatch(this.#options, visit.trip, rows, meta));
    if (isFirst) visit.payloads[part] = payload;
    return payload;
  }

  #sendAgain(leg: Leg): void {
    leg.attempt = ++leg.visit.lastAttempt;
    this.#options.observe.retry();
    this.#send(leg);
  }

  #receive(message: BusMessage): void {
    if (message.noResponders) {
      this.#nobodyHosts(Number(message.subject.slice(message.subject.lastIndexOf(".") + 1)));
      return;
    }
    try {
      this.#accept(decodeExpertResult(message.payload), message.payload.length);
    } catch (thrown) {
      this.#options.observe.badMessage(RallyError.from(thrown).message);
    }
  }

  #accept(result: ExpertResult, bytes: number): void {
    const visit = this.#visits.get(result.microBatch);
    if (visit === undefined || visit.trip.passId !== result.passId || visit.trip.layer !== result.layer) return;
    const { numShards } = this.#options;
    const leg = result.shard < numShards ? visit.legs[result.part * numShards + result.shard] : undefined;
    // Late answers are as good as any, but not those from before the placement changed.
    if (leg === undefined || leg.answered || result.attempt < visit.firstAttempt) return;
    if (result.kind === "refused") this.#refused(leg, result.attempt, RallyError.fromWire(result.error));
    else this.#answered(leg, result, bytes);
  }

  #answered(leg: Leg, result: ExpertResult & { readonly kind: "result" }, bytes: number): void {
    const { hiddenSize, clock, observe } = this.#options;
    const { visit, shard } = leg;
    const { from, count } = leg.rows;
    const rows = (visit.outputs[shard] as Float32Array).subarray(from * hiddenSize, (from + count) * hiddenSize);
    try {
      fromWireF32(result.output, [count, hiddenSize], rows);
    } catch (thrown) {
      const error = RallyError.from(thrown);
      observe.badMessage(`answer of ${result.expertId}: ${error.message}`);
      this.#refused(leg, result.attempt, error);
      return;
    }
    leg.answered = true;
    visit.numOpen--;
    this.#credits.release(shard, leg);
    observe.hop({
      microBatch: result.microBatch,
      layer: result.layer,
      shard,
      sentAt: leg.sentAt,
      answeredAt: clock.elapsed(),
      expertMs: (result.waitUs + result.computeUs) / 1000,
      bytes: leg.bytes + bytes,
    });
    if (visit.numOpen > 0) return;
    this.#visits.delete(visit.trip.microBatch);
    const { hidden, residual } = visit.trip.pass;
    combine(hidden, residual, visit.outputs);
    visit.done();
  }

  #refused(leg: Leg, attempt: number, error: RallyError): void {
    // A later attempt is under way already.
    if (attempt !== leg.attempt) return;
    const { epoch, clock } = this.#options;
    if (error.code === "stale-epoch" && epoch() !== leg.visit.epoch) return this.#restart(leg.visit);
    // Too little time for a slow expert, or for one whose clock is ahead of ours: the next attempt gets more.
    if (error.code === "deadline-exceeded") leg.numSilences++;
    if (!isPassing(error.code) && ++leg.numRefusals >= MAX_REFUSALS) return this.#fail(leg.visit, error);
    leg.retryAt = clock.elapsed() + retryAfterMs(error);
  }

  /** The placement has changed: what shards have answered so far may not add up with what others answer now. */
  #restart(visit: Visit): void {
    visit.epoch = this.#options.epoch();
    visit.firstAttempt = ++visit.lastAttempt;
    visit.payloads.length = 0;
    visit.numOpen = visit.legs.length;
    for (const leg of visit.legs) {
      leg.attempt = visit.firstAttempt;
      leg.numRefusals = 0;
      if (leg.answered) {
        leg.answered = false;
        leg.retryAt = Infinity;
        this.#credits.take(leg.shard, leg);
      } else if (leg.retryAt !== Infinity) {
        this.#options.observe.retry();
        this.#send(leg);
      }
    }
  }

  #nobodyHosts(shard: number): void {
    const retryAt = this.#options.clock.elapsed() + NO_RESPONDERS_RETRY_MS;
    for (const leg of this.#underWay()) if (leg.shard === shard) leg.retryAt = retryAt;
  }

  #connection(connected: boolean): void {
    this.#connected = connected;
    if (!connected) return;
    // Nobody knows which of them arrived.
    for (const leg of this.#underWay()) this.#sendAgain(leg);
  }

  #tick(): void {
    const { clock, epoch } = this.#options;
    this.#timer = undefined;
    const now = clock.elapsed();
    for (const leg of this.#connected ? [...this.#underWay()] : []) {
      if (now < leg.retryAt || leg.answered) continue;
      if (epoch() !== leg.visit.epoch) this.#restart(leg.visit);
      else {
        // A refusal or a "no responders" has moved retryAt: only a whole wait in vain is silence.
        if (now - leg.sentAt >= this.#options.dispatchTimeoutMs) leg.numSilences++;
        this.#sendAgain(leg);
      }
    }
    if (this.#visits.size > 0) this.#timer = clock.after(TICK_MS, () => this.#tick());
  }

  /** Legs that have been sent and not answered. */
  *#underWay(): Generator<Leg> {
    for (const visit of this.#visits.values()) {
      for (const leg of visit.legs) if (!leg.answered && leg.retryAt !== Infinity) yield leg;
    }
  }
}
