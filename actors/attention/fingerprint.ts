import { createHash } from "node:crypto";
import { encode } from "../../infra/codec.ts";
import type { GenerateRequest } from "../protocol/messages.ts";

/**
 * What a request asks for, in 16 characters: two messages under one request id are one request only if these are equal. Its
 * deadline and idle limit are left out: who asks again may give it more time.
 */
export function fingerprintOf(request: GenerateRequest): string {
  const { prompt, maxTokens, sampling, stop, logprobs } = request;
  const asked = encode([
    prompt,
    maxTokens,
    Object.entries(sampling).sort(([a], [b]) => (a < b ? -1 : 1)),
    stop,
    logprobs ?? -1,
  ]);
  return createHash("sha256").update(asked).digest("base64url").slice(0, 16);
}
