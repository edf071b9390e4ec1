import type { Clock, Timer } from "../../infra/clock.ts";
import type { WorkQueue } from "../../infra/durable.ts";
import { decodeGenerateRequest } from "../protocol/decode.ts";
import type { GenerateRequest } from "../protocol/messages.ts";

const LOOK_EVERY_MS = 100;
/** Its owner, if it has one, ends a request by itself within this time. */
const GRACE_MS = 250;
/** What was seen last holds for so long. */
const LOAD_HOLDS_MS = 1_000;
/** Twice what the queue holds: those seen longest ago are off it by then. */
const MAX_SEEN = 2_000;

export type WaitingRequest = Pick<GenerateRequest, "requestId" | "deadline" | "maxTokens">;

export interface QueueWatchOptions {
  readonly queue: WorkQueue;
  readonly clock: Clock;
  /** Whether requests have to wait now. */
  readonly isFull: () => boolean;
  /** How long from now until a request is done that has so many tokens of others before it; 0 if that is not known. */
  readonly etaMs: (tokensAhead: number, numTokens: number, numInHand: number) => number;
  readonly passed: (request: WaitingRequest) => void;
  /** Resolves with true if the request has an ending now, and nobody needs its job any more. */
  readonly hopeless: (request: WaitingRequest, etaMs: number) => Promise<boolean>;
}

/** What one that comes now has to wait for. */
export interface QueueLoad {
  /** Of those that wait in the queue. */
  readonly tokensAhead: number;
  /** Of those that this actor has told to come since. */
  readonly tokensPromised: number;
  /** Requests, of all actors. */
  readonly numInHand: number;
}

/**
 * Looks at the requests that wait in the queue while this actor has no place for them: one whose time is up, or will be before
 * its turn has come, is told so at once. Does nothing as long as there is a place.
 */
export class QueueWatch {
  readonly #options: QueueWatchOptions;
  /** By their place in the queue, ascending. */
  readonly #seen = new Map<number, WaitingRequest>();
  #lastSeq = 0;
  #seenLoad: (Omit<QueueLoad, "tokensPromised"> & { readonly at: number }) | undefined;
  #tokensPromised = 0;
  #timer: Timer | undefined;
  #looking = false;
  #closed = false;

  constructor(options: QueueWatchOptions) {
    this.#options = options;
  }

  /** Goes on for as long as there is no place. */
  watch(): void {
    if (this.#timer !== undefined || this.#looking || this.#closed || !this.#options.isFull()) return;
    this.#looking = true;
    void this.#look().finally(() => {
      this.#looking = false;
      if (this.#closed) return;
      this.#timer = this.#options.clock.after(LOOK_EVERY_MS, () => {
        this.#timer = undefined;
        this.watch();
      });
    });
  }

  /** Undefined if it has not looked lately, as there were places. */
  get load(): QueueLoad | undefined {
    const seen = this.#seenLoad;
    if (seen === undefined || this.#options.clock.elapsed() - seen.at > LOAD_HOLDS_MS) return undefined;
    return { tokensAhead: seen.tokensAhead, tokensPromised: this.#tokensPromised, numInHand: seen.numInHand };
  }

  /** A request of so many tokens will come, which the next look sees. */
  promise(maxTokens: number): void {
    this.#tokensPromised += maxTokens;
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  async #look(): Promise<void> {
    const { queue, clock, passed } = this.#options;
    this.#tokensPromised = 0;
    let progress: { readonly lastDelivered: number; readonly numInHand: number } | undefined;
    try {
      await this.#readOn();
      progress = await queue.progress();
    } catch {
      // The store is away; the next look begins where this one ended.
    }
    const now = clock.now();
    for (const [seq, request] of this.#seen) {
      if (request.deadline + GRACE_MS > now) continue;
      this.#seen.delete(seq);
      passed(request);
    }
    if (progress !== undefined) await this.#weedOut(progress);
  }

  /** Of what waits, in its order: whatever will not be done in time makes room for what comes after it. */
  async #weedOut({ lastDelivered, numInHand }: { lastDelivered: number; numInHand: number }): Promise<void> {
    const { clock, etaMs, hopeless } = this.#options;
    const now = clock.now();
    const weeded: Promise<void>[] = [];
    let tokensAhead = 0;
    for (const [seq, request] of this.#seen) {
      if (seq <= lastDelivered || request.deadline <= now) continue;
      const needed = etaMs(tokensAhead, request.maxTokens, numInHand);
      if (needed === 0 || now + needed <= request.deadline) {
        tokensAhead += request.maxTokens;
        continue;
      }
      this.#seen.delete(seq);
      weeded.push(
        hopeless(request, needed)
          .then(async (isEnded) => (isEnded ? await this.#discard(seq, request) : undefined))
          // Whoever pulls it finds out what has become of it.
          .catch(() => undefined),
      );
    }
    this.#seenLoad = { tokensAhead, numInHand, at: clock.elapsed() };
    await Promise.all(weeded);
  }

  /** Looks once more: a number that damage on the way has changed would be somebody else's job. */
  async #discard(seq: number, { requestId }: WaitingRequest): Promise<void> {
    const { queue } = this.#options;
    const job = await queue.peek(seq - 1);
    if (job?.seq === seq && waitingRequest(job.payload)?.requestId === requestId) await queue.discard(seq);
  }

  async #readOn(): Promise<void> {
    for (;;) {
      const job = await this.#options.queue.peek(this.#lastSeq);
      if (job === undefined || this.#closed) return;
      this.#lastSeq = job.seq;
      const request = waitingRequest(job.payload);
      if (request !== undefined) this.#seen.set(job.seq, request);
      for (const oldest of this.#seen.keys()) {
        if (this.#seen.size <= MAX_SEEN) break;
        this.#seen.delete(oldest);
      }
    }
  }
}

/** Whatever else is wrong with a request is said by whoever takes it. */
function waitingRequest(payload: Uint8Array): WaitingRequest | undefined {
  try {
    const { requestId, deadline, maxTokens } = decodeGenerateRequest(payload);
    return { requestId, deadline, maxTokens };
  } catch {
    return undefined;
  }
}
