import type { Durable, DurableLog, KeyValue, LogOptions, QueueOptions, WorkQueue } from "./durable.ts";
import { JetStream } from "./nats-jetstream.ts";
import { bucketStream, NatsKeyValue } from "./nats-key-value.ts";
import type { NatsLink } from "./nats-link.ts";
import { NatsLog } from "./nats-log.ts";
import { NatsQueue } from "./nats-queue.ts";

/** The durable store in JetStream, in files. */
export class NatsDurable implements Durable {
  readonly #jetStream: JetStream;

  constructor(link: NatsLink) {
    this.#jetStream = new JetStream(link);
  }

  /** RallyError `store-unavailable` if the server has no JetStream for us. */
  async check(): Promise<void> {
    await this.#jetStream.call("INFO");
  }

  async queue(options: QueueOptions): Promise<WorkQueue> {
    return await NatsQueue.open(this.#jetStream, options);
  }

  async log(options: LogOptions): Promise<DurableLog> {
    return await NatsLog.open(this.#jetStream, options);
  }

  async keyValue(bucket: string): Promise<KeyValue> {
    return await NatsKeyValue.open(this.#jetStream, bucket);
  }

  async remove(kind: "queue" | "log" | "keyValue", name: string): Promise<void> {
    await this.#jetStream.removeStream(kind === "keyValue" ? bucketStream(name) : name);
  }
}
