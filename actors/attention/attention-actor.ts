import type { Bus, Subscription } from "../../infra/bus.ts";
import type { Timer } from "../../infra/clock.ts";
import type { Job, WorkQueue } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { isName } from "../protocol/subjects.ts";
import { Admission, type AdmissionOptions, COME_BACK_MS } from "./admission.ts";
import { Cancels } from "./cancels.ts";
import { endUnserved } from "./ending.ts";
import { OwnedRequests } from "./owned-requests.ts";
import type { EngineToken } from "./sequence.ts";

export interface AttentionActorOptions extends AdmissionOptions {
  readonly bus: Bus;
  readonly queue: WorkQueue;
  readonly maxSequences: number;
  readonly ackWaitMs: number;
}

const PULL_WAIT_MS = 1000;
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
  readonly #subscription: Subscription;
  #keepAlive: Timer | undefined;
  #pulling: Promise<void> | undefined;
  #draining = false;
  #badCancels = 0;

  constructor(options: AttentionActorOptions) {
    this.#options = options;
    this.#cancels = new Cancels(options.clock, (requestId) => void this.#endUnowned(requestId));
    this.#admission = new Admission(options, this.#owned, this.#cancels);
    const prefix = options.subjects.cancel("");
    this.#subscription = options.bus.subscribe(options.subjects.cancel("*"), ({ subject }) => {
      this.#cancel(subject.slice(prefix.length));
    });
  }

  get counts() {
    return {
      owned: this.#owned.size,
      machineMs: this.#owned.machineMs,
      badMessages: this.#badCancels + this.#admission.numRefused,
    };
  }

  start(): void {
    this.#pulling ??= this.#pull();
    this.#scheduleKeepAlive();
  }

  /** Takes nothing new and waits for the requests in hand; after `limitMs` gives the rest back to the queue. */
  async drain(limitMs: number): Promise<void> {
    this.#draining = true;
    this.#owned.wake();
    const limit = this.#options.clock.after(limitMs, () => {
      for (const owned of this.#owned.all()) owned.giveBack();
    });
    await this.#pulling;
    while (this.#owned.size > 0) await this.#owned.change();
    limit.cancel();
    this.#keepAlive?.cancel();
    this.#cancels.close();
    this.#subscription.unsubscribe();
  }

  /** From the engine. */
  tokens(tokens: readonly EngineToken[]): void {
    for (const token of tokens) this.#owned.withKey(token.key)?.token(token);
  }

  /** From the engine. */
  failed(key: number, error: RallyError): void {
    this.#owned.withKey(key)?.fail(error);
  }

  async #pull(): Promise<void> {
    const { queue, clock, maxSequences, warn } = this.#options;
    let isDown = false;
    while (!this.#draining) {
      const free = maxSequences - this.#owned.size;
      if (free <= 0) {
        await this.#owned.change();
        continue;
      }
      try {
        const jobs = await queue.pull(Math.min(free, MAX_PULL), PULL_WAIT_MS);
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

  async #endUnowned(requestId: string): Promise<void> {
    if (this.#owned.withRequestId(requestId) !== undefined) return;
    try {
      await endUnserved({ ...this.#options, requestId }, { kind: "cancelled" }, "always");
    } catch {
      // Its owner has written in the meantime, or whoever pulls it next will see to it.
    }
  }

  /** Tells the queue in good time that the requests in hand are being worked on. */
  #scheduleKeepAlive(): void {
    this.#keepAlive = this.#options.clock.after(this.#options.ackWaitMs / 3, () => {
      for (const owned of this.#owned.all()) owned.stillWorking();
      this.#scheduleKeepAlive();
    });
  }
}
