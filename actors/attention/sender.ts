import type { Bus } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { BatchEncoder } from "../protocol/hot-messages.ts";
import type { ExpertResult } from "../protocol/messages.ts";
import { seal } from "../protocol/seal.ts";
import { AnswerTimes } from "./answer-times.ts";
import type { Subjects } from "../protocol/subjects.ts";
import { activationBatch, type DispatchOptions } from "./dispatch.ts";
import { Hedges } from "./hedges.ts";
import { type Replica, Replicas, type Send } from "./replicas.ts";
import { patienceMs } from "./retry.ts";
import { RollCall, type RollCallOptions } from "./roll-call.ts";
import type { Leg, Visit } from "./visit.ts";

export interface SenderOptions extends DispatchOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly numShards: number;
  /** A dispatch unanswered for this long is sent again. */
  readonly dispatchTimeoutMs: number;
  readonly observe: {
    retry(): void;
    badMessage(reason: string): void;
  };
}

interface SenderEvents extends Pick<RollCallOptions, "joined" | "gone"> {
  readonly failed: (visit: Visit, error: RallyError) => void;
}

/** Sends legs to replicas, and knows them by how they answer. */
export class Sender {
  readonly #options: SenderOptions;
  readonly #failed: SenderEvents["failed"];
  readonly #replicas: Replicas;
  readonly #rollCall: RollCall;
  readonly #times: AnswerTimes;
  readonly #hedges: Hedges;
  readonly #encoder: BatchEncoder;
  /** What the encoder's memory holds: all shards get the same bytes of a part. */
  #encoded: Encoded | undefined;
  #connected = true;
  readonly #lent = { single: true, borrowed: true, seal: (payload: Uint8Array) => this.#seal(payload) } as const;

  constructor(options: SenderOptions, { joined, gone, failed }: SenderEvents) {
    this.#options = options;
    this.#failed = failed;
    this.#encoder = new BatchEncoder(options.bus.scratch());
    this.#times = new AnswerTimes(options.numShards);
    this.#hedges = new Hedges(options.clock);
    this.#replicas = new Replicas(options.clock, options.numShards);
    const badMessage = (reason: string) => options.observe.badMessage(reason);
    this.#rollCall = new RollCall({ ...options, replicas: this.#replicas, joined, gone, badMessage });
  }

  /** What is sent while it is false is lost. Also true once the bus is closed: then publishing says so. */
  get connected(): boolean {
    return this.#connected;
  }

  connection(connected: boolean): void {
    this.#connected = connected;
    if (connected) this.#rollCall.ask();
  }

  close(): void {
    this.#rollCall.close();
  }

  send(leg: Leg, replica = this.#replicas.choose(leg.shard, leg.tried)): void {
    const { bus, clock, subjects, attentionId, dispatchTimeoutMs } = this.#options;
    const now = clock.elapsed();
    const patience = patienceMs(dispatchTimeoutMs, leg.numSilences);
    leg.sentAt = now;
    leg.retryAt = now + patience;
    leg.lateAt = now + this.#times.lateAfterMs(leg.shard, leg.rows.count);
    leg.isLate = false;
    leg.isUnheard = false;
    if (!this.#connected) return;
    this.#note(leg, replica, now + 2 * patience);
    try {
      const payload = this.#payload(leg, 2 * patience);
      leg.bytes = payload.length;
      const to = subjects.ffn(leg.shard, replica?.id);
      bus.publish(to, payload, subjects.act(attentionId, leg.shard, replica?.id), this.#lent);
    } catch (thrown) {
      // Not from within: whoever sends may be in the middle of `forward`, or of another trip's answer.
      queueMicrotask(() => this.#failed(leg.visit, RallyError.from(thrown)));
    }
  }

  sendAgain(leg: Leg, replica?: Replica): void {
    leg.attempt = ++leg.visit.lastAttempt;
    this.#options.observe.retry();
    this.send(leg, replica);
  }

  /** Also asks a replica that has not been asked yet, if there is one; the first answer of any counts. */
  sendElsewhere(leg: Leg): boolean {
    const other = this.#replicas.choose(leg.shard, leg.tried);
    if (other !== undefined) this.sendAgain(leg, other);
    return other !== undefined;
  }

  /** Its answer takes longer than usual. Called again and again while it does. */
  late(leg: Leg): void {
    if (!leg.isLate) this.#suspect(leg);
    leg.isLate = true;
    const other = this.#replicas.choose(leg.shard, leg.tried);
    if (other !== undefined && this.#hedges.take()) this.sendAgain(leg, other);
  }

  /** Its answer will not come any more. */
  silent(leg: Leg): void {
    leg.numSilences++;
    this.#suspect(leg);
    leg.tried = leg.tried.slice(-1);
  }

  /** Which message is answered; undefined if that is not known any more, or if the server had chosen the replica. */
  heard(answer: ExpertResult): Send | undefined {
    const replica = this.#rollCall.heard(answer.shard, answer.expertId);
    const index = replica?.open.findIndex((send) => isAnswer(answer, send)) ?? -1;
    if (replica === undefined || index < 0) return undefined;
    const [send] = replica.open.splice(index, 1);
    if (send === undefined || answer.kind === "refused") return send;
    const ms = this.#options.clock.elapsed() - send.sentAt;
    this.#replicas.paced(replica, this.#times.slowness(answer.shard, send.numRows, ms));
    return send;
  }

  /** An answer that was the first to its question, `ms` after that was sent. */
  took(leg: Leg, ms: number): void {
    this.#hedges.answered();
    this.#times.took(leg.shard, leg.rows.count, ms);
  }

  unreachable(shard: number, id: string): void {
    this.#rollCall.unreachable(shard, id);
  }

  #note(leg: Leg, replica: Replica | undefined, expiresAt: number): void {
    const { visit, part, attempt, rows, sentAt } = leg;
    const { passId, layer } = visit.trip;
    const send: Send = { passId, layer, part, attempt, numRows: rows.count, replica, sentAt, expiresAt };
    leg.sends.push(send);
    if (replica === undefined) return;
    replica.open.push(send);
    leg.tried.push(replica.id);
  }

  #suspect(leg: Leg): void {
    const replica = leg.sends.at(-1)?.replica;
    if (replica !== undefined) this.#rollCall.suspect(replica);
  }

  #payload(leg: Leg, deadlineMs: number): Uint8Array {
    const { visit, part, rows, attempt } = leg;
    const last = this.#encoded;
    if (last?.visit === visit && last.part === part && last.attempt === attempt) return last.payload;
    // An answer later than the next attempt is still good, so experts may work a little beyond it.
    const deadline = Math.ceil(this.#options.clock.now() + deadlineMs);
    const meta = { part, attempt, epoch: visit.epoch, deadline };
    const payload = this.#encoder.encode(activationBatch(this.#options, visit.trip, rows, meta));
    this.#encoded = { visit, part, attempt, payload, isSealed: false };
    return payload;
  }

  #seal(payload: Uint8Array): void {
    const last = this.#encoded;
    // Once for all shards.
    if (last?.payload !== payload) seal(payload);
    else if (!last.isSealed) {
      seal(payload);
      last.isSealed = true;
    }
  }
}

interface Encoded {
  readonly visit: Visit;
  readonly part: number;
  readonly attempt: number;
  readonly payload: Uint8Array;
  isSealed: boolean;
}

function isAnswer(answer: ExpertResult, { passId, layer, part, attempt }: Send): boolean {
  return answer.attempt === attempt && answer.passId === passId && answer.layer === layer && answer.part === part;
}
