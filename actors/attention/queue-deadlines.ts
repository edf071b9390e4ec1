import type { Clock, Timer } from "../../infra/clock.ts";
import type { WorkQueue } from "../../infra/durable.ts";
import { decodeGenerateRequest } from "../protocol/decode.ts";
import type { GenerateRequest } from "../protocol/messages.ts";

const LOOK_EVERY_MS = 250;
/** Its owner, if it has one, ends a request by itself within this time. */
const GRACE_MS = 250;
/** Twice what the queue holds: those seen longest ago are off it by then. */
const MAX_SEEN = 2_000;

type Deadline = Pick<GenerateRequest, "requestId" | "deadline">;

/**
 * Deadlines of requests that wait in the queue while this actor has no place for them: looks at them where they are, so that one
 * whose time is up need not wait for a place to be told. Does nothing as long as there is a place.
 */
export class QueueDeadlines {
  readonly #queue: WorkQueue;
  readonly #clock: Clock;
  readonly #isFull: () => boolean;
  readonly #passed: (request: Deadline) => void;
  readonly #seen = new Map<number, Deadline>();
  #lastSeq = 0;
  #timer: Timer | undefined;
  #looking = false;
  #closed = false;

  constructor(options: {
    readonly queue: WorkQueue;
    readonly clock: Clock;
    /** Whether requests have to wait now. */
    readonly isFull: () => boolean;
    readonly passed: (request: Deadline) => void;
  }) {
    this.#queue = options.queue;
    this.#clock = options.clock;
    this.#isFull = options.isFull;
    this.#passed = options.passed;
  }

  /** Goes on for as long as there is no place. */
  watch(): void {
    if (this.#timer !== undefined || this.#looking || this.#closed || !this.#isFull()) return;
    this.#looking = true;
    void this.#look().finally(() => {
      this.#looking = false;
      if (this.#closed) return;
      this.#timer = this.#clock.after(LOOK_EVERY_MS, () => {
        this.#timer = undefined;
        this.watch();
      });
    });
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  async #look(): Promise<void> {
    try {
      await this.#readOn();
    } catch {
      // The store is away; the next look begins where this one ended.
    }
    const now = this.#clock.now();
    for (const [seq, request] of this.#seen) {
      if (request.deadline + GRACE_MS > now) continue;
      this.#seen.delete(seq);
      this.#passed(request);
    }
  }

  async #readOn(): Promise<void> {
    for (;;) {
      const job = await this.#queue.peek(this.#lastSeq);
      if (job === undefined || this.#closed) return;
      this.#lastSeq = job.seq;
      const deadline = deadlineOf(job.payload);
      if (deadline !== undefined) this.#seen.set(job.seq, deadline);
      for (const oldest of this.#seen.keys()) {
        if (this.#seen.size <= MAX_SEEN) break;
        this.#seen.delete(oldest);
      }
    }
  }
}

/** Whatever else is wrong with a request is said by whoever takes it. */
function deadlineOf(payload: Uint8Array): Deadline | undefined {
  try {
    const { requestId, deadline } = decodeGenerateRequest(payload);
    return { requestId, deadline };
  } catch {
    return undefined;
  }
}
