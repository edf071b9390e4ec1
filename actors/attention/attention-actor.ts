import type { Bus, Subscription } from "../../infra/bus.ts";
import type { Timer } from "../../infra/clock.ts";
import type { Job, WorkQueue } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { isName } from "../protocol/subjects.ts";
import { Admission, type AdmissionOptions, COME_BACK_MS } from "./admission.ts";
import { Cancels } from "./cancels.ts";
import { endUnbegun, endUnserved, type UnservedEnding } from "./ending.ts";
import { Offers } from "./offers.ts";
import { deadlineExceeded } from "./owned-request.ts";
import { OwnedRequests } from "./owned-requests.ts";
import { Pace } from "./pace.ts";
import { QueueWatch, type WaitingRequest } from "./queue-watch.ts";
import type { EngineToken } from "./sequence.ts";
import { tooLate } from "./too-late.ts";

export interface AttentionActorOptions extends Omit<AdmissionOptions, "msFor"> {
  readonly bus: Bus;
  readonly queue: WorkQueue;
  readonly maxSequences: number;
  readonly ackWaitMs: number;
}

const PULL_WAIT_MS = 1000;
/** An event loop that is busy for three quarters of the ack wait loses nothing yet. */
const KEEP_ALIVES_PER_WAIT = 4;
const BUSY_SHARE = 0.75;
/** What was taken on in vain costs others their time, so an estimate must hold with some room. */
const CAUTION = 1.25;
/** Few at a time, so that a burst spreads over all attention actors that have room. */
const MAX_PULL = 4;

/**
 * The control side of an attention actor: pulls requests, owns them until their ending is in the token log, and passes token
 * ids from the engine on. Runs in the process's main thread; the engine has a thread of its own.
 */
export class AttentionActor {
  readonly #options: AttentionActorOptions;
  readonly #owned = new OwnedRequests();
  readonly #cancels: Cancels;
  readonly #admission: Admission;
  readonly #pace: Pace;
  readonly #queueWatch: QueueWatch;
  readonly #offers: Offers;
  readonly #subscriptions: readonly Subscription[];
  #keepAlive: Timer | undefined;
  #pulling: Promise<void> | undefined;
  readonly #stopPulling = new AbortController();
  #draining = false;
  #badCancels = 0;

  constructor(options: AttentionActorOptions) {
    this.#options = options;
    this.#cancels = new Cancels(options.clock, (requestId) => void this.#endUnowned(requestId, { kind: "cancelled" }));
    this.#pace = new Pace(options.clock);
    this.#admission = new Admission(
      { ...options, msFor: (numTokens) => this.#msFor(numTokens) },
      this.#owned,
      this.#cancels,
    );
    this.#queueWatch = new QueueWatch({
      queue: options.queue,
      clock: options.clock,
      isFull: () => this.#owned.size >= options.maxSequences,
      passed: ({ requestId, deadline }) => {
        void this.#endUnowned(requestId, { kind: "failed", error: deadlineExceeded({ deadline }).toWire() });
      },
      etaMs: (...load) => this.#etaMs(...load),
      hopeless: (request, etaMs) => this.#refuseWaiting(request, etaMs),
    });
    this.#offers = new Offers({
      ...options,
      etaMs: (maxTokens) => this.#etaOfNewMs(maxTokens),
      promised: (maxTokens) => this.#queueWatch.promise(maxTokens),
    });
    const { bus, subjects } = options;
    this.#subscriptions = [
      bus.subscribe(subjects.cancel("*"), ({ subject }) => this.#cancel(subject.slice(subjects.cancel("").length))),
      bus.subscribe(subjects.follow("*"), ({ subject }) =>
        this.#owned.withRequestId(subject.slice(subjects.follow("").length))?.followed(),
      ),
    ];
  }

  get counts() {
    return {
      owned: this.#owned.size,
      machineMs: this.#owned.machineMs,
      badMessages: this.#badCancels + this.#offers.numBad + this.#admission.numRefused,
    };
  }

  start(): void {
    this.#pulling ??= this.#pull();
    this.#scheduleKeepAlive();
  }

  /** Takes nothing new and waits for the requests in hand; after `limitMs` gives the rest back to the queue. */
  async drain(limitMs: number): Promise<void> {
    this.#draining = true;
    this.#offers.close();
    this.#stopPulling.abort();
    this.#owned.wake();
    const limit = this.#options.clock.after(limitMs, () => {
      for (const owned of this.#owned.all()) owned.giveBack();
    });
    await this.#pulling;
    while (this.#owned.size > 0) await this.#owned.change();
    limit.cancel();
    this.#keepAlive?.cancel();
    this.#cancels.close();
    this.#queueWatch.close();
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  /** From the engine. */
  tokens(tokens: readonly EngineToken[]): void {
    this.#pace.tokens(tokens.length);
    for (const token of tokens) this.#owned.withKey(token.key)?.token(token);
  }

  /** From the engine. */
  failed(key: number, error: RallyError): void {
    this.#owned.withKey(key)?.fail(error);
  }

  /** How long a request takes for so many tokens as things are; 0 unless most places are taken, as then it hardly waited. */
  #msFor(numTokens: number): number {
    const { size } = this.#owned;
    return size < BUSY_SHARE * this.#options.maxSequences ? 0 : CAUTION * this.#pace.msFor(numTokens, size);
  }

  /** The same for one that waits; every actor has as many in hand as this one, and makes tokens as fast. */
  #etaMs(tokensAhead: number, numTokens: number, numInHand: number): number {
    const ahead = this.#pace.msFor(tokensAhead, 1) / this.#numActors(numInHand);
    return CAUTION * (ahead + this.#pace.msFor(numTokens, this.#owned.size));
  }

  #numActors(numInHand: number): number {
    return Math.max(1, numInHand / Math.max(1, this.#owned.size));
  }

  /** The same for one that would come now. Others' promises are as many as this one's. */
  #etaOfNewMs(numTokens: number): number {
    const load = this.#queueWatch.load;
    if (load === undefined) return 0;
    const { tokensAhead, tokensPromised, numInHand } = load;
    return this.#etaMs(tokensAhead + this.#numActors(numInHand) * tokensPromised, numTokens, numInHand);
  }

  async #refuseWaiting({ requestId, deadline }: WaitingRequest, etaMs: number): Promise<boolean> {
    if (this.#owned.withRequestId(requestId) !== undefined) return false;
    const error = tooLate(etaMs, deadline - this.#options.clock.now()).toWire();
    return await endUnbegun({ ...this.#options, requestId }, { kind: "failed", error });
  }

  async #pull(): Promise<void> {
    const { queue, clock, maxSequences, warn } = this.#options;
    let isDown = false;
    while (!this.#draining) {
      const free = maxSequences - this.#owned.size;
      if (free <= 0) {
        this.#queueWatch.watch();
        await this.#owned.change();
        continue;
      }
      try {
        const jobs = await queue.pull(Math.min(free, MAX_PULL), PULL_WAIT_MS, this.#stopPulling.signal);
        isDown = false;
        await Promise.all(jobs.map((job) => this.#take(job)));
      } catch (thrown) {
        if (!isDown) warn(`request queue: ${RallyError.from(thrown).message}; trying again`);
        isDown = true;
        await new Promise<void>((resolve) => clock.after(COME_BACK_MS, resolve));
      }
    }
  }

  async #take(job: Job): Promise<void> {
    if (this.#draining) job.release();
    else await this.#admission.take(job);
  }

  #cancel(requestId: string): void {
    if (!isName(requestId)) {
      this.#badCancels++;
      return;
    }
    // Remembered also if owned: the ownership may be lost before the ending is written.
    this.#cancels.add(requestId);
    this.#owned.withRequestId(requestId)?.cancel();
  }

  async #endUnowned(requestId: string, ending: UnservedEnding): Promise<void> {
    if (this.#owned.withRequestId(requestId) !== undefined) return;
    try {
      await endUnserved({ ...this.#options, requestId }, ending, "always");
    } catch {
      // Its owner has written in the meantime, or whoever pulls it next will see to it.
    }
  }

  /** Tells the queue in good time that the requests in hand are being worked on. */
  #scheduleKeepAlive(): void {
    this.#keepAlive = this.#options.clock.after(this.#options.ackWaitMs / KEEP_ALIVES_PER_WAIT, () => {
      for (const owned of this.#owned.all()) owned.stillWorking();
      this.#scheduleKeepAlive();
    });
  }
}
