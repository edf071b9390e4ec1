import { RallyError } from "./errors.ts";
import { type Json, numberIn, numbersIn, Refusal, refusalCode } from "./nats-answer.ts";
import type { JetStream } from "./nats-jetstream.ts";

const REPEAT_MS = 5000;

/**
 * Sets a queue right after a crash of its server.
 *
 * A nats-server that was killed has back jobs that were taken off the queue shortly before. Their acknowledgements it knows, so
 * nobody gets them again, but they would fill up the queue for ever. Everything up to the consumer's acknowledgement floor is
 * done: this removes it, until the floor has passed all that was there after the crash. One by one, because a server before
 * 2.9.15 forgets every delivery under way when any part of a stream is purged: a job whose worker was lost would never come back.
 *
 * And a machine that was switched off may have lost the end of the queue, but not where its consumer was: new jobs get numbers
 * that the consumer takes for delivered. Then it is made anew, and delivers all there is.
 */
export class QueueSweep {
  readonly #jetStream: JetStream;
  readonly #stream: string;
  readonly #consumer: string;
  readonly #makeConsumer: () => Promise<void>;
  /** Last seq of the stream when the connection came up. */
  #target: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running = false;
  #stopped = false;

  constructor(jetStream: JetStream, stream: string, consumer: string, makeConsumer: () => Promise<void>) {
    this.#jetStream = jetStream;
    this.#stream = stream;
    this.#consumer = consumer;
    this.#makeConsumer = makeConsumer;
    jetStream.link.onStatus((status) => {
      this.#stopped = status === "closed";
      clearTimeout(this.#timer);
      if (status !== "connected") return;
      this.#target = undefined;
      this.start();
    });
  }

  start(): void {
    if (this.#running || this.#stopped) return;
    this.#running = true;
    this.#sweep()
      .catch((error: unknown) => isPointless(error))
      .then((finished) => {
        this.#running = false;
        if (finished || this.#stopped) return;
        this.#timer = setTimeout(() => this.start(), REPEAT_MS);
        this.#timer.unref();
      })
      .catch(() => {});
  }

  async #sweep(): Promise<boolean> {
    // In this order: whatever the consumer had delivered is in the stream by then.
    const consumer = await this.#consumerInfo();
    const stream = await this.#jetStream.call(`STREAM.INFO.${this.#stream}`, { deleted_details: true });
    const lastSeq = numberIn(stream, "state", "last_seq");
    if (numberIn(consumer, "delivered", "stream_seq") > lastSeq) {
      await this.#jetStream.call(`CONSUMER.DELETE.${this.#stream}.${this.#consumer}`);
      await this.#makeConsumer();
      return false;
    }
    this.#target ??= lastSeq;
    const floor = numberIn(consumer, "ack_floor", "stream_seq");
    const done = seqsUpTo(floor, stream);
    // Asked twice: a floor that damage on the way has raised would take jobs that are not done.
    const again = done.length === 0 ? consumer : await this.#consumerInfo();
    if (numberIn(again, "ack_floor", "stream_seq") < floor) return false;
    for (const seq of done) await this.#jetStream.deleteMessage(this.#stream, seq);
    return floor >= this.#target;
  }

  async #consumerInfo(): Promise<Json> {
    return await this.#jetStream.call(`CONSUMER.INFO.${this.#stream}.${this.#consumer}`);
  }
}

/** What a stream holds up to `floor`. */
function seqsUpTo(floor: number, stream: Json): number[] {
  if (numberIn(stream, "state", "messages") === 0) return [];
  const gone = new Set(numbersIn(stream, "state", "deleted"));
  const seqs: number[] = [];
  for (let seq = numberIn(stream, "state", "first_seq"); seq <= floor; seq++) if (!gone.has(seq)) seqs.push(seq);
  return seqs;
}

function isPointless(error: unknown): boolean {
  const code = refusalCode(error);
  return RallyError.from(error).code === "closed" || code === Refusal.noStream || code === Refusal.noConsumer;
}
