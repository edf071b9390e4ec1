import { assert } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { logprobsOf } from "../../models/sampling/logprobs.ts";
import { sampleToken } from "../../models/sampling/sample.ts";
import type { EngineRequest, EngineToken, Sequence } from "./sequence.ts";

/**
 * One request's tokens out of logits. A token depends on the logits, the tokens before it and its index alone, so whoever
 * takes a request over goes on just as the former owner would have.
 */
export class Sampler {
  readonly #request: EngineRequest;
  readonly #config: ModelConfig;
  /** [vocabSize] 1 for ids in prompt or output; only kept when a penalty asks for it. */
  readonly #seen: Uint8Array | undefined;
  #numSeen = 0;

  constructor(request: EngineRequest, config: ModelConfig) {
    this.#request = request;
    this.#config = config;
    this.#seen = request.sampling.repetitionPenalty === 1 ? undefined : new Uint8Array(config.vocabSize);
  }

  /** RallyError `session-failed` if the logits are not numbers. */
  next(
    sequence: Sequence,
    logits: Float32Array, // [vocabSize]
  ): EngineToken {
    const { key, numPromptTokens, maxTokens, sampling, logprobs } = this.#request;
    assert(logits.length === this.#config.vocabSize, `${logits.length} logits for ${this.#config.vocabSize} tokens`);
    const index = sequence.tokenIds.length - numPromptTokens;
    this.#see(sequence.tokenIds);
    const id = sampleToken(logits, sampling, index, this.#seen);
    const finish = this.#config.eosTokenIds.includes(id) ? "eos" : index + 1 >= maxTokens ? "length" : undefined;
    return {
      key,
      index,
      id,
      ...(logprobs !== undefined && { logprob: logprobsOf(logits, id, logprobs) }),
      ...(finish !== undefined && { finish }),
    };
  }

  #see(tokenIds: readonly number[]): void {
    if (this.#seen === undefined) return;
    for (const id of tokenIds.slice(this.#numSeen)) this.#seen[id] = 1;
    this.#numSeen = tokenIds.length;
  }
}
