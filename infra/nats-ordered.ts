import type { Subscription } from "./bus.ts";
import type { LogEntry } from "./durable.ts";
import { isIntact, readStored } from "./nats-checksum.ts";
import { RallyError } from "./errors.ts";
import { type Json, numberIn, textOf, unlessDamaged } from "./nats-answer.ts";
import { nanos, parseDelivery, type JetStream } from "./nats-jetstream.ts";
import type { NatsMessage } from "./nats-link.ts";
import { newInbox } from "./nats-requests.ts";

const EMPTY = new Uint8Array(0);
const HEARTBEAT_MS = 5000;
/** Without a message or heartbeat for this long the consumer is taken to be gone. */
const SILENCE_MS = 2.5 * HEARTBEAT_MS;
const RETRY_MS = [50, 100, 250, 500, 1000];

export interface OrderedOptions {
  readonly stream: string;
  /** One subject: servers before 2.10 know no list. */
  readonly subject: string;
  readonly from: "first" | "last";
}

interface StoredMessage extends LogEntry {
  readonly message: NatsMessage;
}

/** The server's side of an ordered read: sends each message once without acknowledgements, and goes when nobody listens. */
export function consumerConfig({ subject, from }: OrderedOptions, inbox: string, afterSeq: number): Json {
  return {
    deliver_subject: inbox,
    filter_subject: subject,
    ack_policy: "none",
    max_deliver: 1,
    mem_storage: true,
    num_replicas: 1,
    ...(afterSeq > 0
      ? { deliver_policy: "by_start_sequence", opt_start_seq: afterSeq + 1 }
      : { deliver_policy: from === "first" ? "all" : "last" }),
  };
}

/**
 * Every message of one subject and then each new one, in order, each once, whatever happens to the server: whenever there is
 * a gap, silence or a new connection, another consumer is made that starts after the last message handed out. Only if the
 * server's machine was switched off, and the stream has lost its end with it, all is handed out again.
 */
export class OrderedFollower implements Subscription {
  readonly #jetStream: JetStream;
  readonly #options: OrderedOptions;
  readonly #handler: (message: StoredMessage) => void;
  readonly #status: Subscription;
  #inbox: Subscription | undefined;
  /** Its name; empty while there is none. */
  #consumer = "";
  #lastSeq = 0;
  #consumerSeq = 0;
  #lastHeard = 0;
  #active = true;
  #opening = false;
  /** Came damaged from a consumer that was not known to be there yet. */
  #damagedSeq: number | undefined;
  #retry: NodeJS.Timeout | undefined;
  #watchdog: NodeJS.Timeout | undefined;

  private constructor(jetStream: JetStream, options: OrderedOptions, handler: (message: StoredMessage) => void) {
    this.#jetStream = jetStream;
    this.#options = options;
    this.#handler = handler;
    this.#status = jetStream.link.onStatus((status) => {
      if (status === "connected") this.#reopen(0);
      if (status === "closed") this.unsubscribe();
    });
  }

  /** Resolves when the server has begun to send. */
  static async open(
    jetStream: JetStream,
    options: OrderedOptions,
    handler: (message: StoredMessage) => void,
  ): Promise<OrderedFollower> {
    const follower = new OrderedFollower(jetStream, options, handler);
    try {
      await unlessDamaged(() => follower.#open());
    } catch (error) {
      follower.unsubscribe();
      throw error;
    }
    follower.#watchdog = setInterval(() => follower.#watch(), HEARTBEAT_MS);
    follower.#watchdog.unref();
    return follower;
  }

  unsubscribe(): void {
    this.#active = false;
    this.#removeConsumer();
    this.#inbox?.unsubscribe();
    this.#status.unsubscribe();
    clearTimeout(this.#retry);
    clearInterval(this.#watchdog);
  }

  async #open(): Promise<void> {
    const { link } = this.#jetStream;
    this.#inbox?.unsubscribe();
    this.#removeConsumer();
    const inbox = newInbox();
    this.#consumerSeq = 0;
    this.#lastHeard = performance.now();
    // What an earlier consumer still sends goes to its own inbox, and nowhere.
    const subscription = link.subscribe(inbox, (message) => {
      if (this.#active && this.#inbox === subscription) this.#receive(message);
    });
    this.#inbox = subscription;
    const { stream } = this.#options;
    const afterSeq = this.#lastSeq;
    const info = await this.#jetStream.ask(`CONSUMER.CREATE.${stream}`, {
      stream_name: stream,
      config: {
        ...consumerConfig(this.#options, inbox, afterSeq),
        flow_control: true,
        idle_heartbeat: nanos(HEARTBEAT_MS),
      },
    });
    this.#consumer = textOf(info["name"]);
    // Nobody has waited for it.
    if (!this.#active || this.#inbox !== subscription) return this.#removeConsumer();
    // It starts at the stream's end at the latest. If that is before what we have seen, what comes has numbers we know already.
    if (numberIn(info, "delivered", "stream_seq") >= afterSeq) return;
    this.#lastSeq = 0;
    throw new RallyError("store-unavailable", `stream ${stream} has lost its end`, { stream });
  }

  /** The server would notice by itself that nobody listens, but only after a while. */
  #removeConsumer(): void {
    const { link } = this.#jetStream;
    const subject = `$JS.API.CONSUMER.DELETE.${this.#options.stream}.${this.#consumer}`;
    if (this.#consumer !== "" && link.connected) link.publish(subject, EMPTY);
    this.#consumer = "";
  }

  #receive(message: NatsMessage): void {
    this.#lastHeard = performance.now();
    if (message.status === 100) {
      this.#heartbeat(message);
      return;
    }
    const delivery = parseDelivery(message.reply);
    if (delivery === undefined) return;
    if (delivery.consumerSeq !== this.#consumerSeq + 1) {
      this.#reopen(0);
      return;
    }
    this.#consumerSeq = delivery.consumerSeq;
    if (delivery.streamSeq <= this.#lastSeq) return;
    if (isIntact(message)) this.#handOut(delivery.streamSeq, message);
    else this.#readAgain(delivery.streamSeq);
  }

  #handOut(seq: number, message: NatsMessage): void {
    this.#lastSeq = seq;
    this.#handler({ seq, payload: new Uint8Array(message.payload), message });
  }

  /** What came damaged comes again, before what follows it. */
  #readAgain(seq: number): void {
    // Nothing is taken until then.
    this.#inbox?.unsubscribe();
    this.#inbox = undefined;
    if (this.#opening) {
      this.#damagedSeq = seq;
      return;
    }
    this.#opening = true;
    readStored(this.#jetStream, this.#options.stream, seq)
      .then(
        (stored) => {
          if (this.#active && stored !== undefined && seq > this.#lastSeq) this.#handOut(seq, stored.message);
        },
        // Then it is delivered again.
        () => undefined,
      )
      .finally(() => {
        this.#opening = false;
        this.#reopen(0);
      })
      .catch(() => {});
  }

  #heartbeat(message: NatsMessage): void {
    // Flow control: the server waits for an answer before it sends more.
    const waiting = message.reply ?? message.header("Nats-Consumer-Stalled");
    if (waiting !== undefined) this.#jetStream.link.publish(waiting, EMPTY);
    const sent = message.header("Nats-Last-Consumer");
    if (sent !== undefined && Number(sent) > this.#consumerSeq) this.#reopen(0);
  }

  #watch(): void {
    if (this.#jetStream.link.connected && performance.now() - this.#lastHeard > SILENCE_MS) this.#reopen(0);
  }

  #reopen(attempt: number): void {
    if (!this.#active || this.#opening) return;
    clearTimeout(this.#retry);
    this.#opening = true;
    this.#open()
      .then(
        () => true,
        () => false,
      )
      .then((opened) => {
        this.#opening = false;
        const damagedSeq = this.#damagedSeq;
        this.#damagedSeq = undefined;
        if (damagedSeq !== undefined) return this.#readAgain(damagedSeq);
        // A new connection reports itself; until then there is nothing to try.
        if (opened || !this.#active || !this.#jetStream.link.connected) return;
        this.#retry = setTimeout(() => this.#reopen(attempt + 1), RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
        this.#retry.unref();
      })
      .catch(() => {});
  }
}
