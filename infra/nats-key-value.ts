import type { Subscription } from "./bus.ts";
import type { KeyValue, KeyValueEntry } from "./durable.ts";
import { damaged, unlessDamaged } from "./nats-answer.ts";
import { CHECK_HEADER, checkOf, isIntact, readStored } from "./nats-checksum.ts";
import { checkName, type JetStream } from "./nats-jetstream.ts";
import type { NatsHeaders, NatsMessage } from "./nats-link.ts";
import { OrderedFollower } from "./nats-ordered.ts";
import { checkSubject } from "./subject.ts";

/** Other NATS clients expect this name. */
export const bucketStream = (bucket: string): string => `KV_${bucket}`;

const EMPTY = new Uint8Array(0);
/** Copies of one value that are stored damaged before it is given up. */
const MAX_COPIES = 16;

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
    const message = await this.#last(key);
    if (message === undefined || isRemoval(message)) return undefined;
    return { value: message.payload, revision: Number(message.header("Nats-Sequence")) };
  }

  async put(key: string, value: Uint8Array, expectedRevision?: number): Promise<number> {
    let expected = expectedRevision === 0 ? await this.#removedAt(key) : expectedRevision;
    const check = checkOf(value);
    for (let tries = 0; tries < MAX_COPIES; tries++) {
      const headers: NatsHeaders =
        expected === undefined ? [] : [["Nats-Expected-Last-Subject-Sequence", String(expected)]];
      const { seq } = await this.#jetStream.publish(this.#subject(key), value, [[CHECK_HEADER, check], ...headers]);
      const kept = await readStored(this.#jetStream, bucketStream(this.#bucket), seq);
      // None is kept of a value that somebody has put another in place of.
      if (kept === undefined || (!kept.isDamaged && kept.message.header(CHECK_HEADER) === check)) return seq;
      expected = seq;
    }
    throw damaged(`each of ${MAX_COPIES} copies of ${key}`);
  }

  async watch(key: string, handler: (entry: KeyValueEntry) => void): Promise<Subscription> {
    const options = { stream: bucketStream(this.#bucket), subject: this.#subject(key), from: "last" } as const;
    return await OrderedFollower.open(this.#jetStream, options, ({ seq, payload, message }) => {
      handler({ value: isRemoval(message) ? EMPTY : payload, revision: seq });
    });
  }

  async #last(key: string): Promise<NatsMessage | undefined> {
    const stream = bucketStream(this.#bucket);
    const message = await unlessDamaged(async () => {
      const last = await this.#jetStream.get(stream, { last: this.#subject(key) });
      if (last === undefined || Number.isSafeInteger(Number(last.header("Nats-Sequence")))) return last;
      throw damaged(`where the last value of ${key} is kept`);
    });
    if (message === undefined || isIntact(message)) return message;
    const kept = await readStored(this.#jetStream, stream, Number(message.header("Nats-Sequence")));
    // Another has taken its place.
    return kept === undefined ? await this.#last(key) : kept.message;
  }

  /** What others have removed is as new, but has left a marker; 0 if there is none. */
  async #removedAt(key: string): Promise<number> {
    const message = await this.#last(key);
    return message !== undefined && isRemoval(message) ? Number(message.header("Nats-Sequence")) : 0;
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
