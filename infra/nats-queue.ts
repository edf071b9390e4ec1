import { setTimeout as sleep } from "node:timers/promises";
import type { Subscription } from "./bus.ts";
import type { Job, QueueOptions, WorkQueue } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { numberIn } from "./nats-answer.ts";
import { readNext, readStored } from "./nats-checksum.ts";
import { nanos, type JetStream } from "./nats-jetstream.ts";
import type { NatsHeaders, NatsMessage } from "./nats-link.ts";
import { type Arrival, arrivalOf, NatsJob } from "./nats-queue-job.ts";
import { QueueSweep } from "./nats-queue-sweep.ts";
import { newInbox } from "./nats-requests.ts";
import { storeWhole } from "./nats-store-whole.ts";

/** All workers share this consumer. */
const CONSUMER = "workers";
/** JetStream counts headers as part of a message: room for an id. */
const HEADER_BYTES = 512;
/** The server ends a pull; this much later we do, should its word be lost. */
const GRACE_MS = 1000;
const NO_WAIT_MS = 2000;
const PAUSE_MS = 100;
const EMPTY = new Uint8Array(0);
const EXPIRED = 408;
const SILENT = 0;

/** A JetStream work-queue stream with one durable pull consumer. */
export class NatsQueue implements WorkQueue {
  readonly #jetStream: JetStream;
  readonly #options: QueueOptions;
  /** By whoever pulls. */
  #sweep: QueueSweep | undefined;

  private constructor(jetStream: JetStream, options: QueueOptions) {
    this.#jetStream = jetStream;
    this.#options = options;
  }

  static async open(jetStream: JetStream, options: QueueOptions): Promise<NatsQueue> {
    const { name, subject, maxJobs, maxJobBytes } = options;
    await jetStream.ensureStream({
      name,
      subjects: [subject],
      retention: "workqueue",
      discard: "new",
      max_msgs: maxJobs,
      max_msg_size: maxJobBytes + HEADER_BYTES,
    });
    await ensureConsumer(jetStream, options);
    return new NatsQueue(jetStream, options);
  }

  async put(id: string, payload: Uint8Array): Promise<void> {
    const { maxJobBytes, name, subject } = this.#options;
    if (payload.length > maxJobBytes) {
      throw new RallyError("payload-too-large", `job of ${payload.length} bytes, limit ${maxJobBytes}`, {
        field: "job",
        found: payload.length,
        limit: maxJobBytes,
      });
    }
    const headers: NatsHeaders = [["Nats-Expected-Stream", name]];
    await storeWhole(this.#jetStream, { stream: name, subject, payload, id, headers: () => headers });
  }

  async pull(max: number, waitMs: number, cancelled?: AbortSignal): Promise<Job[]> {
    if (this.#sweep === undefined) {
      const renew = () => ensureConsumer(this.#jetStream, this.#options);
      this.#sweep = new QueueSweep(this.#jetStream, this.#options.name, CONSUMER, renew);
      this.#sweep.start();
    }
    const deadline = performance.now() + waitMs;
    const isCancelled = (): boolean => cancelled?.aborted === true;
    for (;;) {
      if (isCancelled()) return [];
      const ready = await this.#fetch(max, 0);
      if (ready.jobs.length > 0) return ready.jobs;
      // The server has not even said that there is nothing: it answers so when the queue was removed.
      if (ready.status === SILENT && this.#jetStream.link.connected) await this.depth();
      const left = deadline - performance.now();
      if (left <= 0 || !(await this.#connectedWithin(left))) return [];
      // One at a time while waiting: a larger batch would stay open at the server after its first job.
      const waited = await this.#fetch(1, Math.max(1, deadline - performance.now()), cancelled);
      if (waited.jobs.length > 0 || isCancelled()) return waited.jobs;
      // Ended before its time, e.g. because the consumer was changed: not to be asked again at once.
      if (waited.status !== EXPIRED && this.#jetStream.link.connected) await sleep(PAUSE_MS);
    }
  }

  async peek(afterSeq: number): Promise<{ readonly seq: number; readonly payload: Uint8Array } | undefined> {
    const { name, subject } = this.#options;
    const next = await readNext(this.#jetStream, name, { subject, afterSeq });
    return next && { seq: next.seq, payload: next.message.payload };
  }

  async depth(): Promise<number> {
    const info = await this.#jetStream.call(`CONSUMER.INFO.${this.#options.name}.${CONSUMER}`);
    return numberIn(info, "num_pending") + numberIn(info, "num_ack_pending");
  }

  async progress(): Promise<{ readonly lastDelivered: number; readonly numInHand: number }> {
    const info = await this.#jetStream.call(`CONSUMER.INFO.${this.#options.name}.${CONSUMER}`);
    return { lastDelivered: numberIn(info, "delivered", "stream_seq"), numInHand: numberIn(info, "num_ack_pending") };
  }

  async discard(seq: number): Promise<void> {
    await this.#jetStream.deleteMessage(this.#options.name, seq);
  }

  /** One pull request; without `waitMs` only what is there now. */
  async #fetch(
    batch: number,
    waitMs: number,
    cancelled?: AbortSignal,
  ): Promise<{ readonly jobs: Job[]; readonly status: number }> {
    const { link } = this.#jetStream;
    const arrivals: Arrival[] = [];
    let status: number = SILENT;
    if (!link.connected) return { jobs: [], status };
    // Jobs keep the subject they were put on, so each pull needs a subscription of its own to know them by.
    const inbox = newInbox();
    let open = true;
    let subscriptions: Subscription[] = [];
    await new Promise<void>((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        cancelled?.removeEventListener("abort", finish);
        open = false;
        resolve();
      };
      const timer = setTimeout(finish, waitMs > 0 ? waitMs + GRACE_MS : NO_WAIT_MS);
      // The server gives nothing to a pull whose inbox nobody has any more.
      cancelled?.addEventListener("abort", finish);
      const receive = (message: NatsMessage): void => {
        const arrival = arrivalOf(message);
        if (arrival === undefined) {
          // No jobs (404), pull expired (408), consumer changed (409), no such queue (503); 100 is a heartbeat.
          if (message.status === 100) return;
          status = message.status;
          finish();
        } else if (open) {
          arrivals.push(arrival);
          if (arrivals.length === batch) finish();
        } else {
          this.#jobOf(arrival).release();
        }
      };
      // The server forgets a pull with its connection.
      subscriptions = [link.subscribe(inbox, receive), link.onStatus(finish)];
      const request = waitMs > 0 ? { batch, expires: nanos(Math.max(1, waitMs)) } : { batch, no_wait: true };
      const subject = `$JS.API.CONSUMER.MSG.NEXT.${this.#options.name}.${CONSUMER}`;
      link.publish(subject, Buffer.from(JSON.stringify(request)), inbox);
    });
    for (const subscription of subscriptions) subscription.unsubscribe();
    // Until the server knows that nobody listens any more, it may still give a job to this pull.
    if (cancelled?.aborted === true) {
      await Promise.race([link.flush().catch(() => undefined), sleep(NO_WAIT_MS, undefined, { ref: false })]);
    }
    const jobs = await Promise.all(arrivals.map(async (arrival) => this.#jobOf(await this.#whole(arrival))));
    return { jobs, status };
  }

  #jobOf(arrival: Arrival): Job {
    return new NatsJob(this.#jetStream, arrival, this.#options.ackWaitMs);
  }

  /** What came damaged is read where it is kept, and is empty if it is damaged there. */
  async #whole(arrival: Arrival): Promise<Arrival> {
    if (arrival.isIntact) return arrival;
    try {
      const kept = await readStored(this.#jetStream, this.#options.name, arrival.seq);
      return { ...arrival, payload: kept?.message.payload ?? EMPTY };
    } catch {
      // It can be looked at again when it is delivered again.
      return { ...arrival, payload: EMPTY };
    }
  }

  async #connectedWithin(ms: number): Promise<boolean> {
    const { link } = this.#jetStream;
    if (link.connected) return true;
    return await new Promise<boolean>((resolve) => {
      const settle = (connected: boolean): void => {
        clearTimeout(timer);
        status.unsubscribe();
        resolve(connected);
      };
      const timer = setTimeout(() => settle(false), ms);
      const status = link.onStatus((now) => settle(now === "connected"));
    });
  }
}

async function ensureConsumer(jetStream: JetStream, { name, maxJobs, ackWaitMs }: QueueOptions): Promise<void> {
  await jetStream.call(`CONSUMER.DURABLE.CREATE.${name}.${CONSUMER}`, {
    stream_name: name,
    config: {
      durable_name: CONSUMER,
      deliver_policy: "all",
      ack_policy: "explicit",
      ack_wait: nanos(ackWaitMs),
      max_ack_pending: maxJobs,
      max_deliver: -1,
    },
  });
}
