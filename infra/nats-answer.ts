import { isDeepStrictEqual } from "node:util";
import { RETRY_AFTER_MS } from "./durable-limits.ts";
import { RallyError, type ErrorFields } from "./errors.ts";
import type { NatsMessage } from "./nats-link.ts";

export type Json = { readonly [key: string]: JsonValue };
type JsonValue = string | number | boolean | null | readonly JsonValue[] | Json;

/** JetStream's own error codes, as far as they mean something to us. */
export const Refusal = {
  noConsumer: 10014,
  noAccount: 10039,
  noMessage: 10043,
  noResources: 10047,
  tooLarge: 10054,
  nameTaken: 10058,
  noStream: 10059,
  otherStream: 10060,
  overlaps: 10065,
  wrongLastSeq: 10071,
  notEnabled: 10076,
  storeFailed: 10077,
} as const;

/** Questions asked again because question or answer were damaged. */
const TRIES = 8;

/** Refusals that are an answer to what was asked; any other may mean that the question was damaged on its way. */
export const KNOWN_REFUSALS: ReadonlySet<number> = new Set(Object.values(Refusal));

/** JetStream's code of a refusal; undefined for any other error. */
export function refusalCode(error: unknown): number | undefined {
  const code = error instanceof RallyError ? error.fields["jetstream"] : undefined;
  return typeof code === "number" ? code : undefined;
}

export function parseAnswer(message: NatsMessage, what: string): Json {
  let answer: unknown;
  try {
    answer = JSON.parse(Buffer.from(message.payload).toString());
  } catch {
    throw damaged(`the answer to ${what}`);
  }
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
    case Refusal.otherStream:
      // The name that it was sent with is right.
      return damaged(what);
    case Refusal.noAccount:
    case Refusal.notEnabled:
      return unavailable(`JetStream is not enabled on the NATS server (${description}): start it with -js`, fields);
    case Refusal.noResources:
      return unavailable(`${what}: the NATS server has too little storage left (${description})`, fields);
    default:
      return unavailable(`${what}: ${description}`, fields);
  }
}

export function unavailable(message: string, fields: ErrorFields = {}): RallyError {
  return new RallyError("store-unavailable", message, fields);
}

/** `cause`: what it would be if it was not. */
export function damaged(what: string, cause?: unknown): RallyError {
  return new RallyError("corrupted", `${what} was changed on its way`, { retryAfterMs: 1 }, { cause });
}

/** Tries again what was damaged on its way. */
export async function unlessDamaged<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      const { code, cause } = RallyError.from(error);
      if (code !== "corrupted") throw error;
      // So often it is no damage.
      if (tries === TRIES) throw cause ?? error;
    }
  }
}

/** How the configuration that the server has taken differs from the one it was sent; empty if it does not, undefined without one. */
export function changedIn(request: Json | undefined, { config: found }: Json): string | undefined {
  const wanted = request?.["subjects"] === undefined ? request?.["config"] : request;
  if (wanted === undefined || !isJson(wanted)) return undefined;
  const taken = found !== undefined && isJson(found) ? found : {};
  return Object.entries(wanted)
    .filter(([name, value]) => !isDeepStrictEqual(taken[name], value))
    .map(([name]) => `${name} ${JSON.stringify(taken[name])}`)
    .join();
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
