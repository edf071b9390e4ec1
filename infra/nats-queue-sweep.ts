import { RallyError } from "./errors.ts";
import { type Json, numberIn, numbersIn, Refusal, refusalCode } from "./nats-answer.ts";
import { ackSubject, type JetStream } from "./nats-jetstream.ts";

const REPEAT_MS = 2000;
const ACK = Buffer.from("+ACK");

/**
 * Sets a queue right after a crash of its server. What a nats-server notes on disk of a queue's jobs and of their
 * acknowledgements, it notes apart, up to a second late. So one that was killed
 *
 * - has back jobs that were done. Their acknowledgements it knows, so nobody gets them again, but they would fill up the queue
 *   for ever. Everything up to the consumer's acknowledgement floor is done: this removes it, until the floor has passed all that
 *   was there after the crash, and pushes the floor on where it stays behind. One by one, because a server before 2.9.15 forgets
 *   every delivery under way when any part of a stream is purged: a job whose worker was lost would never come back.
 * - waits for acknowledgements of jobs that have gone. Those before the first job it has, it drops by itself; any other would hold
 *   the floor for ever, and with it all that was done. They are acknowledged here: whatever the stream has no more is done.
 *
 * And a machine that was switched off may have lost the end of the queue, but not where its consumer was: new jobs get numbers
 * that the consumer takes for delivered. Then it is made anew, and delivers all there is; so it is when it is lost altogether.
 */
export class QueueSweep {
  readonly #jetStream: JetStream;
  readonly #stream: string;
  readonly #consumer: string;
  readonly #makeConsumer: () => Promise<void>;
  /** Last seq of the stream when the connection came up. */
  #target: number | undefined;
  /** Whether the jobs that had gone by then are acknowledged. */
  #areGoneAcknowledged = false;
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
      this.#areGoneAcknowledged = false;
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
    if (consumer === undefined) return await this.#startAnew();
    const stream = await this.#streamInfo();
    const delivered = numberIn(consumer, "delivered", "stream_seq");
    const lastSeq = numberIn(stream, "state", "last_seq");
    if (delivered > lastSeq) {
      await this.#dropConsumer();
      return await this.#startAnew();
    }
    this.#target ??= lastSeq;
    const floor = numberIn(consumer, "ack_floor", "stream_seq");
    // Asked twice: a floor that damage on the way has raised would take jobs that are not done.
    if (numberIn(await this.#consumerInfo(), "ack_floor", "stream_seq") < floor) return false;
    for (const seq of seqsUpTo(floor, stream)) await this.#jetStream.deleteMessage(this.#stream, seq);
    if (floor >= this.#target) return true;
    if (!this.#areGoneAcknowledged) {
      await this.#acknowledgeGone(stream, floor, Math.min(delivered, this.#target));
      this.#areGoneAcknowledged = true;
    }
    this.#pushFloor(floor, numberIn(consumer, "ack_floor", "consumer_seq"));
    return false;
  }

  /** Nothing happens to those that nobody waits for. */
  async #acknowledgeGone(stream: Json, floor: number, upTo: number): Promise<void> {
    // Asked twice here, too: the acknowledged ones are not to be delivered again.
    const again = new Set(goneFrom(await this.#streamInfo()));
    const gone = goneFrom(stream).filter((seq) => seq > floor && seq <= upTo && again.has(seq));
    for (const seq of gone) await this.#jetStream.acknowledge(this.#ackSubject(seq, 0));
  }

  /**
   * The server moves the floor when it gets the acknowledgement whose number, as those of deliveries go, is next. The job may be
   * known to it by the number of a later delivery, or the server may have dropped it: then the floor stays until nothing is in
   * hand, which may be never. What is done acknowledged once more, under the number that is missing, moves it to before the first
   * job that is not. Servers of 2.10 and later take no notice.
   */
  #pushFloor(floor: number, deliverySeq: number): void {
    this.#jetStream.link.publish(this.#ackSubject(floor, deliverySeq + 1), ACK);
  }

  #ackSubject(streamSeq: number, consumerSeq: number): string {
    return ackSubject(this.#stream, this.#consumer, { deliveries: 1, streamSeq, consumerSeq, pending: 0 });
  }

  async #startAnew(): Promise<false> {
    await this.#makeConsumer();
    return false;
  }

  /** Another may have done so just now. */
  async #dropConsumer(): Promise<void> {
    try {
      await this.#jetStream.call(`CONSUMER.DELETE.${this.#stream}.${this.#consumer}`);
    } catch (error) {
      if (refusalCode(error) !== Refusal.noConsumer) throw error;
    }
  }

  async #streamInfo(): Promise<Json> {
    return await this.#jetStream.call(`STREAM.INFO.${this.#stream}`, { deleted_details: true });
  }

  async #consumerInfo(): Promise<Json | undefined> {
    try {
      return await this.#jetStream.call(`CONSUMER.INFO.${this.#stream}.${this.#consumer}`);
    } catch (error) {
      if (refusalCode(error) !== Refusal.noConsumer) throw error;
      return undefined;
    }
  }
}

/** What a stream holds up to `floor`. */
function seqsUpTo(floor: number, stream: Json): number[] {
  if (numberIn(stream, "state", "messages") === 0) return [];
  const gone = new Set(goneFrom(stream));
  const seqs: number[] = [];
  for (let seq = numberIn(stream, "state", "first_seq"); seq <= floor; seq++) if (!gone.has(seq)) seqs.push(seq);
  return seqs;
}

/** What a stream holds no more, from the first that it holds on. */
function goneFrom(stream: Json): number[] {
  return numbersIn(stream, "state", "deleted");
}

function isPointless(error: unknown): boolean {
  return RallyError.from(error).code === "closed" || refusalCode(error) === Refusal.noStream;
}
