import { assert, RallyError } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { Sampler } from "./sampler.ts";
import { type EngineRequest, type EngineToken, renewed, type Sequence, sequenceOf } from "./sequence.ts";

/** The sequences that the engine has, each with its sampler. */
export class Sequences {
  readonly #config: ModelConfig;
  readonly #maxSequences: number;
  readonly #live = new Map<number, { sequence: Sequence; readonly sampler: Sampler }>();

  constructor(config: ModelConfig, maxSequences: number) {
    this.#config = config;
    this.#maxSequences = maxSequences;
  }

  get size(): number {
    return this.#live.size;
  }

  get free(): number {
    return this.#maxSequences - this.#live.size;
  }

  /** RallyError `overloaded` without a free place, `context-exceeded` when prompt and output cannot fit. */
  add(request: EngineRequest): Sequence {
    checkLength(request, this.#config.contextLength);
    if (this.free <= 0) {
      throw new RallyError("overloaded", `all ${this.#maxSequences} sequences are taken`, {
        limit: this.#maxSequences,
        retryAfterMs: 1000,
      });
    }
    assert(!this.#live.has(request.key), `key ${request.key} is new`);
    const sequence = sequenceOf(request);
    this.#live.set(request.key, { sequence, sampler: new Sampler(request, this.#config) });
    return sequence;
  }

  /** Its slot is freed when its micro-batch's pass is over. False if it has ended already. */
  remove(key: number): boolean {
    const entry = this.#live.get(key);
    if (entry === undefined) return false;
    entry.sequence.gone = true;
    return this.#live.delete(key);
  }

  /** Takes a sequence out of the cache for now; returns what goes on in its place. */
  renew(sequence: Sequence): Sequence {
    const entry = this.#live.get(sequence.request.key);
    assert(entry?.sequence === sequence, "only what is here is renewed");
    sequence.gone = true;
    entry.sequence = renewed(sequence);
    return entry.sequence;
  }

  clear(): void {
    for (const key of this.#live.keys()) this.remove(key);
  }

  /** One token for each sequence from its row of `logits` [due.length, vocabSize]; those that have ended are removed. */
  draw(
    due: readonly Sequence[],
    logits: Float32Array,
    failed: (key: number, error: RallyError) => void,
  ): EngineToken[] {
    const { vocabSize } = this.#config;
    const tokens: EngineToken[] = [];
    for (const [i, sequence] of due.entries()) {
      const { key } = sequence.request;
      const entry = this.#live.get(key);
      // Released or renewed while the head was computed.
      if (entry?.sequence !== sequence) continue;
      let token: EngineToken;
      try {
        token = entry.sampler.next(sequence, logits.subarray(i * vocabSize, (i + 1) * vocabSize));
      } catch (thrown) {
        // One row of nonsense is no reason to lose the others.
        this.remove(key);
        failed(key, RallyError.from(thrown));
        continue;
      }
      sequence.tokenIds.push(token.id);
      tokens.push(token);
      if (token.finish !== undefined) this.remove(key);
    }
    return tokens;
  }
}

function checkLength({ tokenIds, numPromptTokens, maxTokens }: EngineRequest, contextLength: number): void {
  const length = numPromptTokens + maxTokens;
  if (length > contextLength) {
    throw new RallyError("context-exceeded", `prompt and maxTokens need ${length} tokens of ${contextLength}`, {
      promptTokens: numPromptTokens,
      maxTokens,
      limit: contextLength,
    });
  }
  if (numPromptTokens < 1) {
    throw new RallyError("bad-request", "prompt must have at least one token, found none", {
      field: "prompt",
      found: 0,
    });
  }
  assert(tokenIds.length < length, "a sequence has a token left to sample");
}
