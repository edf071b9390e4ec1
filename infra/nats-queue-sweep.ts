import { RallyError } from "./errors.ts";
import { numberIn, Refusal, refusalCode, type JetStream } from "./nats-jetstream.ts";

const REPEAT_MS = 5000;

/**
 * A nats-server that was killed has back jobs that were taken off the queue in its last two minutes. Their acknowledgements it
 * knows, so nobody gets them again, but they would fill up the queue for ever. Everything up to the consumer's
 * acknowledgement floor is done: this removes it, until the floor has passed all that was there after the crash.
 */
export class QueueSweep {
  readonly #jetStream: JetStream;
  readonly #stream: string;
  readonly #consumer: string;
  /** Last seq of the stream when the connection came up. */
  #target: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running = false;
  #stopped = false;

  constructor(jetStream: JetStream, stream: string, consumer: string) {
    this.#jetStream = jetStream;
    this.#stream = stream;
    this.#consumer = consumer;
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
    const stream = await this.#jetStream.call(`STREAM.INFO.${this.#stream}`);
    const consumer = await this.#jetStream.call(`CONSUMER.INFO.${this.#stream}.${this.#consumer}`);
    this.#target ??= numberIn(stream, "state", "last_seq");
    const floor = numberIn(consumer, "ack_floor", "stream_seq");
    if (numberIn(stream, "state", "messages") > 0 && numberIn(stream, "state", "first_seq") <= floor) {
      await this.#jetStream.call(`STREAM.PURGE.${this.#stream}`, { seq: floor + 1 });
    }
    return floor >= this.#target;
  }
}

function isPointless(error: unknown): boolean {
  const code = refusalCode(error);
  return RallyError.from(error).code === "closed" || code === Refusal.noStream || code === Refusal.noConsumer;
}
