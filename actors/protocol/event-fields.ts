import { ERROR_CODES, type ErrorCode, type WireError } from "../../infra/errors.ts";
import { FieldReader } from "./fields.ts";
import type { TokenLogprob, Usage } from "./messages.ts";
import { REQUEST_LIMITS } from "./limits.ts";

/** The parts that log events and expert results are made of. */

export const MAX_TOKEN_ID = 2 ** 31 - 1;
const MAX_INTEGER = Number.MAX_SAFE_INTEGER;
const ERROR_LIMITS = { fields: 32, characters: 10_000 } as const;

export function tokensOf(fields: FieldReader) {
  const ids = fields.list("ids", REQUEST_LIMITS.maxTokens);
  if (!ids.every(isTokenId)) throw fields.refuse("ids", ids, `token ids from 0 to ${MAX_TOKEN_ID}`);
  const texts = fields.list("texts", REQUEST_LIMITS.maxTokens);
  if (!texts.every((text) => typeof text === "string")) throw fields.refuse("texts", texts, "strings");
  if (texts.length !== ids.length) throw fields.refuse("texts", texts, `as many as ids, ${ids.length}`);
  const index = fields.integer("index", 0, MAX_INTEGER - ids.length);
  const rest = {
    ...(fields.has("request") && { request: fields.text("request", 64) }),
    ...(fields.raw("left") === true && { left: true as const }),
  };
  if (!fields.has("logprobs")) return { index, ids, texts, ...rest };
  const logprobs = fields.list("logprobs", ids.length).map(tokenLogprobOf);
  if (logprobs.length !== ids.length) throw fields.refuse("logprobs", logprobs, `as many as ids, ${ids.length}`);
  return { index, ids, texts, logprobs, ...rest };
}

function tokenLogprobOf(value: unknown): TokenLogprob {
  const fields = new FieldReader(value, "logprobs");
  const logprob = fields.raw("logprob");
  if (!isLogprob(logprob)) throw fields.refuse("logprob", logprob, "a number of at most 0");
  const top = fields.list("top", REQUEST_LIMITS.logprobs).map((pair): readonly [number, number] => {
    if (Array.isArray(pair) && pair.length === 2) {
      const [id, alternative]: unknown[] = pair;
      if (isTokenId(id) && isLogprob(alternative)) return [id, alternative];
    }
    throw fields.refuse("top", pair, "pairs of token id and logprob");
  });
  return { logprob, top };
}

export function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_TOKEN_ID;
}

function isLogprob(value: unknown): value is number {
  return typeof value === "number" && value <= 0;
}

export function usageOf(fields: FieldReader): Usage {
  const usage = new FieldReader(fields.raw("usage"), "usage");
  return {
    promptTokens: usage.integer("promptTokens", 0, MAX_INTEGER),
    outputTokens: usage.integer("outputTokens", 0, MAX_INTEGER),
  };
}

/** Lenient where it can be: an error that is told imperfectly is better than one that is not told. */
export function wireErrorOf(fields: FieldReader): WireError {
  const error = new FieldReader(fields.raw("error"), "error");
  const code = error.text("code", 64);
  // A newer peer may know codes that we do not.
  const known: ErrorCode = ERROR_CODES.find((candidate) => candidate === code) ?? "internal";
  const raw = error.raw("fields");
  const entries: [string, unknown][] = typeof raw === "object" && raw !== null ? Object.entries(raw) : [];
  const safe: Record<string, string | number | boolean> = {};
  for (const [name, value] of entries.slice(0, ERROR_LIMITS.fields)) {
    if (typeof value === "string") safe[name] = value.slice(0, ERROR_LIMITS.characters);
    else if (typeof value === "number" || typeof value === "boolean") safe[name] = value;
  }
  const message = error.raw("message");
  if (typeof message !== "string") throw error.refuse("message", message, "a string");
  return { code: known, message: message.slice(0, ERROR_LIMITS.characters), fields: safe };
}
