import type { Clock, Timer } from "./clock.ts";
import { RETRY_AFTER_MS } from "./durable-limits.ts";
import type { Job, QueueOptions, WorkQueue } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { DuplicateWindow } from "./memory-dedup.ts";

interface StoredJob {
  readonly id: string;
  readonly seq: number;
  readonly payload: Uint8Array;
  deliveries: number;
  /** Set while a worker has it, or until a released job may be delivered again. */
  timer: Timer | undefined;
}

interface WaitingPull {
  readonly max: number;
  /** Ends the waiting. */
  readonly settle: (jobs: Job[]) => void;
}

export class MemoryQueue implements WorkQueue {
  #options: QueueOptions;
  readonly #clock: Clock;
  readonly #checkUp: () => void;
  readonly #seen: DuplicateWindow;
  /** By seq; a job leaves it when done. */
  readonly #jobs = new Map<number, StoredJob>();
  /** Jobs that nobody works on, redelivered ones first. */
  #waiting: StoredJob[] = [];
  #pulls: WaitingPull[] = [];
  #lastSeq = 0;
  #lastDelivered = 0;
  #removed = false;

  /** `checkUp` throws while the store is out of reach. */
  constructor(options: QueueOptions, clock: Clock, checkUp: () => void) {
    this.#options = options;
    this.#clock = clock;
    this.#checkUp = checkUp;
    this.#seen = new DuplicateWindow(clock);
  }

  configure(options: QueueOptions): void {
    this.#options = options;
  }

  remove(): void {
    this.#removed = true;
  }

  async put(id: string, payload: Uint8Array): Promise<void> {
    const { maxJobs, maxJobBytes, name } = this.#options;
    if (payload.length > maxJobBytes) {
      throw new RallyError("payload-too-large", `job of ${payload.length} bytes, limit ${maxJobBytes}`, {
        field: "job",
        found: payload.length,
        limit: maxJobBytes,
      });
    }
    this.#checkOpen();
    if (this.#seen.find(id) !== undefined) return;
    if (this.#jobs.size >= maxJobs) {
      throw new RallyError("overloaded", `queue ${name} holds ${maxJobs} jobs, its limit`, {
        limit: maxJobs,
        retryAfterMs: RETRY_AFTER_MS,
      });
    }
    const stored = new Uint8Array(payload);
    const job: StoredJob = { id, seq: ++this.#lastSeq, payload: stored, deliveries: 0, timer: undefined };
    this.#seen.remember(id, job.seq);
    this.#jobs.set(job.seq, job);
    this.#waiting.push(job);
    this.#serve();
  }

  async pull(max: number, waitMs: number, cancelled?: AbortSignal): Promise<Job[]> {
    this.#checkOpen();
    if (cancelled?.aborted === true) return [];
    const jobs = this.#take(max);
    if (jobs.length > 0 || waitMs <= 0) return jobs;
    return await new Promise<Job[]>((resolve) => {
      const settle = (given: Job[]): void => {
        this.#pulls = this.#pulls.filter((other) => other !== pull);
        timer.cancel();
        cancelled?.removeEventListener("abort", giveUp);
        resolve(given);
      };
      const giveUp = (): void => settle([]);
      const timer = this.#clock.after(waitMs, giveUp);
      cancelled?.addEventListener("abort", giveUp);
      const pull: WaitingPull = { max, settle };
      this.#pulls.push(pull);
    });
  }

  async peek(afterSeq: number): Promise<{ readonly seq: number; readonly payload: Uint8Array } | undefined> {
    this.#checkOpen();
    for (const { seq, payload } of this.#jobs.values()) {
      if (seq > afterSeq) return { seq, payload: new Uint8Array(payload) };
    }
    return undefined;
  }

  async depth(): Promise<number> {
    this.#checkOpen();
    return this.#jobs.size;
  }

  async progress(): Promise<{ readonly lastDelivered: number; readonly numInHand: number }> {
    this.#checkOpen();
    return { lastDelivered: this.#lastDelivered, numInHand: this.#jobs.size - this.#waiting.length };
  }

  async discard(seq: number): Promise<void> {
    this.#checkOpen();
    const job = this.#jobs.get(seq);
    if (job !== undefined) this.#forget(job);
  }

  #forget(job: StoredJob): void {
    job.timer?.cancel();
    this.#jobs.delete(job.seq);
    this.#waiting = this.#waiting.filter((other) => other !== job);
  }

  #checkOpen(): void {
    this.#checkUp();
    const { name } = this.#options;
    if (this.#removed) throw new RallyError("store-unavailable", `queue ${name} is gone`, { queue: name });
  }

  #serve(): void {
    while (this.#waiting.length > 0) {
      const [pull] = this.#pulls;
      if (pull === undefined) return;
      pull.settle(this.#take(pull.max));
    }
  }

  #take(max: number): Job[] {
    return this.#waiting.splice(0, max).map((job) => this.#deliver(job));
  }

  #deliver(job: StoredJob): Job {
    job.deliveries++;
    this.#lastDelivered = Math.max(this.#lastDelivered, job.seq);
    const delivery = job.deliveries;
    this.#returnAfter(job, this.#options.ackWaitMs);
    // A worker that has lost the job may still end it, but not hold it back.
    const holds = (): boolean => this.#jobs.has(job.seq) && job.deliveries === delivery && job.timer !== undefined;
    return {
      id: job.id,
      payload: new Uint8Array(job.payload),
      delivery,
      working: () => {
        if (holds()) this.#returnAfter(job, this.#options.ackWaitMs);
      },
      done: async () => {
        this.#checkUp();
        this.#forget(job);
      },
      release: (delayMs = 0) => {
        if (holds()) this.#returnAfter(job, delayMs);
      },
    };
  }

  #returnAfter(job: StoredJob, ms: number): void {
    job.timer?.cancel();
    job.timer = undefined;
    const giveBack = (): void => {
      job.timer = undefined;
      const later = this.#waiting.findIndex(({ deliveries }) => deliveries === 0);
      this.#waiting.splice(later === -1 ? this.#waiting.length : later, 0, job);
      this.#serve();
    };
    if (ms <= 0) giveBack();
    else job.timer = this.#clock.after(ms, giveBack);
  }
}
