import type { EngineRequest } from "../../actors/attention/sequence.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../../models/sampling/params.ts";

/** A request with a prompt of its own: `length` ids that depend on the key. */
export function engineRequest(
  key: number,
  length: number,
  maxTokens: number,
  sampling: Partial<SamplingParams> = { temperature: 0 },
): EngineRequest {
  const tokenIds = Array.from({ length }, (_, i) => 2 + ((key * 13 + i * 7 + ((i * key) % 5)) % 90));
  return {
    key,
    tokenIds,
    numPromptTokens: length,
    maxTokens,
    sampling: { ...DEFAULT_SAMPLING, ...sampling },
    logprobs: undefined,
  };
}
