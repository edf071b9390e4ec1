import type { SamplingParams } from "../../models/sampling/params.ts";
import type { TokenLogprob } from "../protocol/messages.ts";

/** What the engine needs of a request. It knows token ids only; text, stop strings and the log are the control side's. */
export interface EngineRequest {
  /** Names the request in this process; grows from request to request, so the smaller is the older. */
  readonly key: number;
  /** Prompt, then the output tokens an earlier owner has already logged. */
  readonly tokenIds: readonly number[];
  readonly numPromptTokens: number;
  /** Output tokens at most, those already logged included. */
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
  /** Alternatives to report per token; undefined: no logprobs. */
  readonly logprobs: number | undefined;
}

/** What the engine reports of one token: `index` counts output tokens. */
export interface EngineToken {
  readonly key: number;
  readonly index: number;
  readonly id: number;
  readonly logprob?: TokenLogprob;
  /** Set on a request's last token. */
  readonly finish?: "eos" | "length";
}

/** One request's place in the engine. */
export interface Sequence {
  readonly request: EngineRequest;
  /** Prompt and output so far. */
  readonly tokenIds: number[];
  /** Tokens whose keys and values are in the cache; the rest is to be prefilled. */
  numCached: number;
  /** Released or ended: its slot is freed when its micro-batch's pass is over. */
  gone: boolean;
}

export function sequenceOf(request: EngineRequest): Sequence {
  return { request, tokenIds: [...request.tokenIds], numCached: 0, gone: false };
}

/** The same sequence with nothing in the cache: to be prefilled again, its output included. */
export function renewed({ request, tokenIds }: Sequence): Sequence {
  return { request, tokenIds: [...tokenIds], numCached: 0, gone: false };
}

/** Tokens that are not yet in the cache. */
export function numRemaining(sequence: Sequence): number {
  return sequence.tokenIds.length - sequence.numCached;
}

/** A sequence decodes when only its newest token is not yet in the cache. */
export function isDecoding(sequence: Sequence): boolean {
  return numRemaining(sequence) === 1 && sequence.numCached >= sequence.request.numPromptTokens;
}
