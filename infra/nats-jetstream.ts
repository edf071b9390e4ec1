import { setTimeout as sleep } from "node:timers/promises";
import { DUPLICATE_WINDOW_MS, RETRY_AFTER_MS } from "./durable-limits.ts";
import { RallyError, type ErrorFields } from "./errors.ts";
import type { NatsHeaders, NatsLink, NatsMessage } from "./nats-link.ts";
import { NatsRequests } from "./nats-requests.ts";

const API = "$JS.API";
const TIMEOUT_MS = 5000;
const NAME = /^[A-Za-z0-9_-]{1,128}$/;
const CREATE_ATTEMPTS = 20;
const CREATE_RETRY_MS = 25;
const EMPTY = new Uint8Array(0);

/** Nanoseconds, JetStream's unit for durations. */
export const nanos = (ms: number): number => Math.round(ms * 1e6);

export type Json = { readonly [key: string]: JsonValue };
type JsonValue = string | number | boolean | null | readonly JsonValue[] | Json;

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

/** JetStream's request and reply API, with its errors as RallyError. Nothing newer than nats-server 2.9.10 is used. */
export class JetStream {
  readonly link: NatsLink;
  readonly #requests: NatsRequests;

  constructor(link: NatsLink) {
    this.link = link;
    this.#requests = new NatsRequests(link);
  }

  /** One API call, e.g. `STREAM.INFO.name`. */
  async call(operation: string, request?: Json): Promise<Json> {
    const payload = request === undefined ? EMPTY : Buffer.from(JSON.stringify(request));
    return parseAnswer(await this.#send(`${API}.${operation}`, payload, TIMEOUT_MS), operation);
  }

  /** A publish that the stream has stored, or has stored before (`duplicate`). */
  async publish(
    subject: string,
    payload: Uint8Array,
    headers: NatsHeaders,
  ): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
    const answer = parseAnswer(await this.#send(subject, payload, TIMEOUT_MS, headers), subject);
    const { seq, duplicate } = answer;
    if (typeof seq !== "number")
      throw unavailable(`${subject} was answered by something other than a stream`, { subject });
    return { seq, duplicate: duplicate === true };
  }

  /** The first message of a subject from `seq` on; undefined if there is none. */
  async next(
    stream: string,
    from: { readonly seq: number; readonly next_by_subj: string },
  ): Promise<{ readonly seq: number; readonly payload: Uint8Array } | undefined> {
    const answer = await this.#send(`${API}.DIRECT.GET.${stream}`, Buffer.from(JSON.stringify(from)), TIMEOUT_MS);
    if (answer.status === 404) return undefined;
    const seq = Number(answer.header("Nats-Sequence"));
    if (answer.status !== 0 || !Number.isSafeInteger(seq)) {
      throw unavailable(`reading ${stream} from ${from.seq}: status ${answer.status}`);
    }
    return { seq, payload: answer.payload };
  }

  /** The last message of a subject; undefined if there is none. */
  async get(stream: string, which: { readonly last: string }): Promise<NatsMessage | undefined> {
    const answer = await this.#send(`${API}.DIRECT.GET.${stream}.${which.last}`, EMPTY, TIMEOUT_MS);
    if (answer.status === 404) return undefined;
    if (answer.status !== 0) throw unavailable(`reading ${which.last}: status ${answer.status}`);
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
      throw unavailable(`no stream takes ${subject}: JetStream is off, or the stream is gone`, { subject });
    }
  }
}

/** JetStream's own error codes, as far as they mean something to us. */
export const Refusal = {
  noConsumer: 10014,
  noAccount: 10039,
  noMessage: 10043,
  noResources: 10047,
  tooLarge: 10054,
  nameTaken: 10058,
  noStream: 10059,
  overlaps: 10065,
  wrongLastSeq: 10071,
  notEnabled: 10076,
  storeFailed: 10077,
} as const;

/** JetStream's code of a refusal; undefined for any other error. */
export function refusalCode(error: unknown): number | undefined {
  const code = error instanceof RallyError ? error.fields["jetstream"] : undefined;
  return typeof code === "number" ? code : undefined;
}

function parseAnswer(message: NatsMessage, what: string): Json {
  const answer: unknown = JSON.parse(Buffer.from(message.payload).toString());
  if (!isJson(answer)) throw unavailable(`${what}: not an answer of JetStream`);
  const { error } = answer;
  if (error === undefined) return answer;
  if (!isJson(error)) throw unavailable(`${what}: refused`);
  throw refusalOf(Number(error["err_code"] ?? 0), textOf(error["description"]), what);
}

function refusalOf(code: number, description: string, what: string): RallyError {
  const fields = { jetstream: code, description };
  switch (code) {
    case Refusal.wrongLastSeq:
      return new RallyError("stale-owner", `${what}: ${description}`, {
        ...fields,
        lastSeq: Number(/\d+$/.exec(description)?.[0] ?? 0),
      });
    case Refusal.tooLarge:
      return new RallyError("payload-too-large", `${what}: ${description}`, fields);
    case Refusal.storeFailed: {
      // One code for a full queue and for a disk that cannot be written to; only the text tells.
      const overloaded = description.includes("maximum messages");
      return new RallyError(overloaded ? "overloaded" : "store-unavailable", `${what}: ${description}`, {
        ...fields,
        retryAfterMs: RETRY_AFTER_MS,
      });
    }
    case Refusal.noAccount:
    case Refusal.notEnabled:
      return unavailable(`JetStream is not enabled on the NATS server (${description}): start it with -js`, fields);
    case Refusal.noResources:
      return unavailable(`${what}: the NATS server has too little storage left (${description})`, fields);
    default:
      return unavailable(`${what}: ${description}`, fields);
  }
}

function unavailable(message: string, fields: ErrorFields = {}): RallyError {
  return new RallyError("store-unavailable", message, fields);
}

/** `numberIn(info, "state", "messages")`; 0 where there is none. */
export function numberIn(value: JsonValue | undefined, ...path: readonly string[]): number {
  const found = valueIn(value, path);
  return typeof found === "number" ? found : 0;
}

/** As `numberIn`, of a list; empty where there is none. */
export function numbersIn(value: JsonValue | undefined, ...path: readonly string[]): number[] {
  const found = valueIn(value, path);
  return Array.isArray(found) ? found.filter((each) => typeof each === "number") : [];
}

function valueIn(value: JsonValue | undefined, path: readonly string[]): JsonValue | undefined {
  let found = value;
  for (const key of path) found = found !== undefined && isJson(found) ? found[key] : undefined;
  return found;
}

export function textOf(value: JsonValue | undefined): string {
  return typeof value === "string" ? value : "";
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
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
