import type { LogEntry } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { numberIn, textOf, unlessDamaged } from "./nats-answer.ts";
import { isIntact, readStored } from "./nats-checksum.ts";
import { type JetStream, parseDelivery } from "./nats-jetstream.ts";
import { consumerConfig, type OrderedOptions } from "./nats-ordered.ts";
import { newInbox } from "./nats-requests.ts";

const EMPTY = new Uint8Array(0);
const READ_MS = 5000;

/** Every message of one subject as of now. */
export async function readOrdered(jetStream: JetStream, options: OrderedOptions): Promise<LogEntry[]> {
  return await unlessDamaged(() => readOnce(jetStream, options));
}

async function readOnce(jetStream: JetStream, options: OrderedOptions): Promise<LogEntry[]> {
  const { link } = jetStream;
  const { stream, subject } = options;
  const entries: LogEntry[] = [];
  const damaged = new Set<LogEntry>();
  const inbox = newInbox();
  const cleanUp: (() => void)[] = [];
  try {
    const read = await new Promise<LogEntry[]>((resolve, reject) => {
      let wanted: number | undefined;
      const finishIfComplete = (): void => {
        if (wanted !== undefined && entries.length >= wanted) resolve(entries.slice(0, wanted));
      };
      const subscription = link.subscribe(inbox, (message) => {
        const delivery = parseDelivery(message.reply);
        if (delivery === undefined) return;
        if (delivery.consumerSeq !== entries.length + 1) {
          reject(new RallyError("timeout", `a message of ${subject} was lost while it was read`, { subject }));
        }
        const entry = { seq: delivery.streamSeq, payload: new Uint8Array(message.payload) };
        if (!isIntact(message)) damaged.add(entry);
        entries.push(entry);
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
        .ask(`CONSUMER.CREATE.${stream}`, { stream_name: stream, config: consumerConfig(options, inbox, 0) })
        .then((info) => {
          cleanUp.push(() => link.publish(`$JS.API.CONSUMER.DELETE.${stream}.${textOf(info["name"])}`, EMPTY));
          // Pending counts what had not been sent when the answer was written; sending may have begun by then.
          wanted = numberIn(info, "num_pending") + numberIn(info, "delivered", "consumer_seq");
          finishIfComplete();
        }, reject);
    });
    return await Promise.all(read.map(async (entry) => (damaged.has(entry) ? await readEntry(entry.seq) : entry)));
  } finally {
    for (const step of cleanUp) step();
  }

  async function readEntry(seq: number): Promise<LogEntry> {
    return { seq, payload: (await readStored(jetStream, stream, seq))?.message.payload ?? EMPTY };
  }
}
