import type { Subscription } from "./bus.ts";
import type { LogEntry } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { nanos, numberIn, parseDelivery, textOf, type JetStream, type Json } from "./nats-jetstream.ts";
import type { NatsMessage } from "./nats-link.ts";
import { newInbox } from "./nats-requests.ts";

const EMPTY = new Uint8Array(0);
const HEARTBEAT_MS = 5000;
/** Without a message or heartbeat for this long the consumer is taken to be gone. */
const SILENCE_MS = 2.5 * HEARTBEAT_MS;
const RETRY_MS = [50, 100, 250, 500, 1000];
const READ_MS = 5000;

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
function consumerConfig({ subject, from }: OrderedOptions, inbox: string, afterSeq: number): Json {
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

/** Every message of one subject as of now. */
export async function readOrdered(jetStream: JetStream, options: OrderedOptions): Promise<LogEntry[]> {
  const { link } = jetStream;
  const { stream, subject } = options;
  const entries: LogEntry[] = [];
  const inbox = newInbox();
  const cleanUp: (() => void)[] = [];
  try {
    return await new Promise<LogEntry[]>((resolve, reject) => {
      let wanted: number | undefined;
      const finishIfComplete = (): void => {
        if (wanted !== undefined && entries.length >= wanted) resolve(entries.slice(0, wanted));
      };
      const subscription = link.subscribe(inbox, ({ payload, reply }) => {
        const delivery = parseDelivery(reply);
        if (delivery === undefined) return;
        if (delivery.consumerSeq !== entries.length + 1) {
          reject(new RallyError("timeout", `a message of ${subject} was lost while it was read`, { subject }));
        }
        entries.push({ seq: delivery.streamSeq, payload: new Uint8Array(payload) });
        finishIfComplete();
      });
      const status = link.onStatus(() => {
        reject(new RallyError("server-unavailable", `the connection broke while ${subject} was read`, { subject }));
      });
      const timer = setTimeout(() => {
        reject(
          new RallyError("timeout", `reading ${subject} took over ${READ_MS} ms`, { subject, timeoutMs: READ_MS }),
        );
      }, READ_MS);
      cleanUp.push(
        () => subscription.unsubscribe(),
        () => status.unsubscribe(),
        () => clearTimeout(timer),
      );
      jetStream
        .call(`CONSUMER.CREATE.${stream}`, { stream_name: stream, config: consumerConfig(options, inbox, 0) })
        .then((info) => {
          cleanUp.push(() => link.publish(`$JS.API.CONSUMER.DELETE.${stream}.${textOf(info["name"])}`, EMPTY));
          // Pending counts what had not been sent when the answer was written; sending may have begun by then.
          wanted = numberIn(info, "num_pending") + numberIn(info, "delivered", "consumer_seq");
          finishIfComplete();
        }, reject);
    });
  } finally {
    for (const step of cleanUp) step();
  }
}

/**
 * Every message of one subject and then each new one, in order, each once, whatever happens to the server: whenever there is
 * a gap, silence or a new connection, another consumer is made that starts after the last message handed out.
 */
export class OrderedFollower implements Subscription {
  readonly #jetStream: JetStream;
  readonly #options: OrderedOptions;
  readonly #handler: (message: StoredMessage) => void;
  readonly #status: Subscription;
  #inbox: Subscription | undefined;
  #lastSeq = 0;
  #consumerSeq = 0;
  #lastHeard = 0;
  #active = true;
  #opening = false;
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
      await follower.#open();
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
    this.#inbox?.unsubscribe();
    this.#status.unsubscribe();
    clearTimeout(this.#retry);
    clearInterval(this.#watchdog);
  }

  async #open(): Promise<void> {
    const { link } = this.#jetStream;
    this.#inbox?.unsubscribe();
    const inbox = newInbox();
    this.#consumerSeq = 0;
    this.#lastHeard = performance.now();
    // What an earlier consumer still sends goes to its own inbox, and nowhere.
    const subscription = link.subscribe(inbox, (message) => {
      if (this.#active && this.#inbox === subscription) this.#receive(message);
    });
    this.#inbox = subscription;
    await this.#jetStream.call(`CONSUMER.CREATE.${this.#options.stream}`, {
      stream_name: this.#options.stream,
      config: {
        ...consumerConfig(this.#options, inbox, this.#lastSeq),
        flow_control: true,
        idle_heartbeat: nanos(HEARTBEAT_MS),
      },
    });
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
    this.#lastSeq = delivery.streamSeq;
    this.#handler({ seq: delivery.streamSeq, payload: new Uint8Array(message.payload), message });
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
        // A new connection reports itself; until then there is nothing to try.
        if (opened || !this.#active || !this.#jetStream.link.connected) return;
        this.#retry = setTimeout(() => this.#reopen(attempt + 1), RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
        this.#retry.unref();
      })
      .catch(() => {});
  }
}
