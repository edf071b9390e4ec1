import { setTimeout as sleep } from "node:timers/promises";
import { DUPLICATE_WINDOW_MS } from "./durable-limits.ts";
import { RallyError } from "./errors.ts";
import {
  changedIn,
  damaged,
  type Json,
  KNOWN_REFUSALS,
  parseAnswer,
  Refusal,
  refusalCode,
  unavailable,
  unlessDamaged,
} from "./nats-answer.ts";
import type { NatsHeaders, NatsLink, NatsMessage } from "./nats-link.ts";
import { NatsRequests } from "./nats-requests.ts";

const API = "$JS.API";
const TIMEOUT_MS = 5000;
const NAME = /^[A-Za-z0-9_-]{1,128}$/;
const CREATE_ATTEMPTS = 20;
const CREATE_RETRY_MS = 25;
const BELIEVED_AFTER = 4;
/** What a direct read answers to a question that it cannot read. */
const BAD_REQUEST = 408;
const EMPTY = new Uint8Array(0);

/** Nanoseconds, JetStream's unit for durations. */
export const nanos = (ms: number): number => Math.round(ms * 1e6);

/** What a message's acknowledgement subject tells about its delivery. */
export interface Delivery {
  readonly deliveries: number;
  readonly streamSeq: number;
  readonly consumerSeq: number;
  readonly pending: number;
}

/** `$JS.ACK.[domain.account.]stream.consumer.deliveries.streamSeq.consumerSeq.time.pending[.token]` */
export function parseDelivery(reply: string | undefined): Delivery | undefined {
  if (reply === undefined || !reply.startsWith("$JS.ACK.")) return undefined;
  const tokens = reply.split(".");
  const at = tokens.length >= 11 ? 6 : 4;
  const [deliveries, streamSeq, consumerSeq, , pending] = tokens.slice(at, at + 5).map(Number);
  if (deliveries === undefined || streamSeq === undefined || consumerSeq === undefined || pending === undefined) {
    return undefined;
  }
  return { deliveries, streamSeq, consumerSeq, pending };
}

/** Where a consumer's message is acknowledged, whoever got it. */
export function ackSubject(stream: string, consumer: string, delivery: Delivery): string {
  const { deliveries, streamSeq, consumerSeq, pending } = delivery;
  return `$JS.ACK.${stream}.${consumer}.${deliveries}.${streamSeq}.${consumerSeq}.0.${pending}`;
}

/** JetStream's request and reply API, with its errors as RallyError. Nothing newer than nats-server 2.9.10 is used. */
export class JetStream {
  readonly link: NatsLink;
  readonly #requests: NatsRequests;
  /** How the server changes configurations that it is sent. */
  readonly #ownWays = new Set<string>();
  /** Changes that may have come of damage, and how often. */
  readonly #numInRow = new Map<string, number>();

  constructor(link: NatsLink) {
    this.link = link;
    this.#requests = new NatsRequests(link);
  }

  /** One API call, e.g. `STREAM.INFO.name`; asked again when question or answer were damaged on their way. */
  async call(operation: string, request?: Json): Promise<Json> {
    return await unlessDamaged(() => this.ask(operation, request));
  }

  /** As `call`, but RallyError `corrupted` where it would ask again. */
  async ask(operation: string, request?: Json): Promise<Json> {
    const payload = request === undefined ? EMPTY : Buffer.from(JSON.stringify(request));
    const message = await this.#send(`${API}.${operation}`, payload, TIMEOUT_MS);
    let answer: Json;
    try {
      answer = parseAnswer(message, operation);
    } catch (cause) {
      const code = refusalCode(cause);
      throw code === undefined || KNOWN_REFUSALS.has(code) ? cause : damaged(operation, cause);
    }
    this.#checkHeeded(operation, changedIn(request, answer));
    return answer;
  }

  /** A server that goes its own way does so each time; damage does not take the same several times in a row. */
  #checkHeeded(operation: string, change: string | undefined): void {
    if (change === "") this.#numInRow.clear();
    if (change === undefined || change === "" || this.#ownWays.has(change)) return;
    const times = (this.#numInRow.get(change) ?? 0) + 1;
    this.#numInRow.set(change, times);
    if (times < BELIEVED_AFTER) throw damaged(operation);
    this.#ownWays.add(change);
  }

  /** A publish that the stream has stored, or has stored before (`duplicate`). `isFirst`: certainly not before. */
  async publish(
    subject: string,
    payload: Uint8Array,
    headers: NatsHeaders,
    timeoutMs = TIMEOUT_MS,
  ): Promise<{ readonly seq: number; readonly duplicate: boolean; readonly isFirst: boolean }> {
    const answer = parseAnswer(await this.#send(subject, payload, timeoutMs, headers), subject);
    const { seq, duplicate, stream } = answer;
    if (typeof seq !== "number" && stream !== undefined) throw damaged(`the answer to ${subject}`);
    if (typeof seq !== "number")
      throw unavailable(`${subject} was answered by something other than a stream`, { subject });
    // Any other word may be a damaged "duplicate".
    const isFirst = Object.keys(answer).every((name) => name === "stream" || name === "seq" || name === "domain");
    return { seq, duplicate: duplicate === true, isFirst };
  }

  /** The last message of a subject, the one at `seq`, or the first of a subject from `seq` on; undefined if there is none. */
  async get(
    stream: string,
    which: { readonly last: string } | { readonly seq: number; readonly next_by_subj?: string },
  ): Promise<NatsMessage | undefined> {
    const answer =
      "last" in which
        ? await this.#send(`${API}.DIRECT.GET.${stream}.${which.last}`, EMPTY, TIMEOUT_MS)
        : await this.#send(`${API}.DIRECT.GET.${stream}`, Buffer.from(JSON.stringify(which)), TIMEOUT_MS);
    if (answer.status === 404) return undefined;
    if (answer.status === BAD_REQUEST) throw damaged(`the question for a message of ${stream}`);
    if (answer.status !== 0) throw unavailable(`reading ${stream}: status ${answer.status}`);
    return answer;
  }

  /** Nothing happens if it has gone already. */
  async deleteMessage(stream: string, seq: number): Promise<void> {
    try {
      await this.call(`STREAM.MSG.DELETE.${stream}`, { seq, no_erase: true });
    } catch (error) {
      if (refusalCode(error) !== Refusal.noMessage) throw error;
    }
  }

  /** Acknowledges and waits until the server has noted it. */
  async acknowledge(reply: string): Promise<void> {
    await this.#send(reply, Buffer.from("+ACK"), TIMEOUT_MS);
  }

  /** Makes the stream be as `config` says, whether it is new, the same or different. Processes may do so at once. */
  async ensureStream(config: Json & { readonly name: string }): Promise<void> {
    checkName("stream", config.name);
    const full: Json = {
      storage: "file",
      num_replicas: 1,
      duplicate_window: nanos(DUPLICATE_WINDOW_MS),
      allow_direct: true,
      ...config,
    };
    for (let attempt = 0; ; attempt++) {
      try {
        await this.call(`STREAM.CREATE.${config.name}`, full);
        return;
      } catch (error) {
        // Overlapping subjects: it may be this very stream that another process is about to create.
        const mayExist = refusalCode(error) === Refusal.nameTaken || refusalCode(error) === Refusal.overlaps;
        if (!mayExist) throw error;
        try {
          await this.call(`STREAM.UPDATE.${config.name}`, full);
          return;
        } catch (updateError) {
          if (refusalCode(updateError) !== Refusal.noStream) throw updateError;
          if (attempt === CREATE_ATTEMPTS) throw error;
          await sleep(CREATE_RETRY_MS);
        }
      }
    }
  }

  /** Nothing happens if there is none of that name. */
  async removeStream(name: string): Promise<void> {
    checkName("stream", name);
    try {
      await this.call(`STREAM.DELETE.${name}`);
    } catch (error) {
      if (refusalCode(error) !== Refusal.noStream) throw error;
    }
  }

  async #send(subject: string, payload: Uint8Array, timeoutMs: number, headers?: NatsHeaders): Promise<NatsMessage> {
    try {
      return await this.#requests.send(subject, payload, timeoutMs, headers);
    } catch (error) {
      if (!(error instanceof RallyError) || error.code !== "no-responders") throw error;
      // A server whose disk is full switches JetStream off, its API with it.
      throw unavailable(`nothing takes ${subject}: JetStream is off, its disk is full, or the stream is gone`, {
        subject,
      });
    }
  }
}

export function checkName(field: string, name: string): void {
  if (NAME.test(name)) return;
  throw new RallyError(
    "bad-settings",
    `${field} name must match ${NAME.source}, found ${JSON.stringify(name.slice(0, 80))}`,
    {
      field,
    },
  );
}
