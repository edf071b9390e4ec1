import type { Subscription } from "./bus.ts";
import type { KeyValue, KeyValueEntry } from "./durable.ts";
import { checkName, type JetStream } from "./nats-jetstream.ts";
import type { NatsHeaders } from "./nats-link.ts";
import { OrderedFollower } from "./nats-ordered.ts";
import { checkSubject } from "./subject.ts";

/** Other NATS clients expect this name. */
export const bucketStream = (bucket: string): string => `KV_${bucket}`;

/** A NATS key-value bucket, laid out as other NATS clients know it, so that `nats kv get` reads it too. */
export class NatsKeyValue implements KeyValue {
  readonly #jetStream: JetStream;
  readonly #bucket: string;

  private constructor(jetStream: JetStream, bucket: string) {
    this.#jetStream = jetStream;
    this.#bucket = bucket;
  }

  static async open(jetStream: JetStream, bucket: string): Promise<NatsKeyValue> {
    checkName("bucket", bucket);
    await jetStream.ensureStream({
      name: bucketStream(bucket),
      subjects: [`$KV.${bucket}.>`],
      retention: "limits",
      discard: "new",
      max_msgs_per_subject: 1,
      allow_rollup_hdrs: true,
      deny_delete: true,
    });
    return new NatsKeyValue(jetStream, bucket);
  }

  async get(key: string): Promise<KeyValueEntry | undefined> {
    const message = await this.#jetStream.get(bucketStream(this.#bucket), { last: this.#subject(key) });
    if (message === undefined || isRemoval(message)) return undefined;
    return { value: message.payload, revision: Number(message.header("Nats-Sequence")) };
  }

  async put(key: string, value: Uint8Array, expectedRevision?: number): Promise<number> {
    const headers: NatsHeaders =
      expectedRevision === undefined ? [] : [["Nats-Expected-Last-Subject-Sequence", String(expectedRevision)]];
    const { seq } = await this.#jetStream.publish(this.#subject(key), value, headers);
    return seq;
  }

  async watch(key: string, handler: (entry: KeyValueEntry) => void): Promise<Subscription> {
    const options = { stream: bucketStream(this.#bucket), subject: this.#subject(key), from: "last" } as const;
    return await OrderedFollower.open(this.#jetStream, options, ({ seq, payload, message }) => {
      if (!isRemoval(message)) handler({ value: payload, revision: seq });
    });
  }

  #subject(key: string): string {
    const subject = `$KV.${this.#bucket}.${key}`;
    checkSubject(subject);
    return subject;
  }
}

/** Removed keys leave a marker. */
function isRemoval(message: { header(name: string): string | undefined }): boolean {
  return message.header("KV-Operation") !== undefined;
}
