import { RallyError } from "../../infra/errors.ts";
import type { TokenEvent, TokenLogprob } from "../protocol/messages.ts";

/** One token of a request, as the token log has it. */
export interface Token {
  readonly index: number;
  readonly id: number;
  /** What this token adds to the text; empty while a character is incomplete or a stop string may be forming. */
  readonly text: string;
  readonly logprob?: TokenLogprob;
}

/**
 * The tokens of one request in order of their index, each once, whatever the log repeats. Keeps them all: the result needs
 * them, and they are bounded by the request's `maxTokens`.
 */
export class TokenFeed {
  readonly #requestId: string;
  readonly #tokens: Token[] = [];

  constructor(requestId: string) {
    this.#requestId = requestId;
  }

  get tokens(): readonly Token[] {
    return this.#tokens;
  }

  /**
   * Takes what is new in an event and returns how many tokens that were. An owner's claim has no ids. RallyError `internal`
   * if the log is broken: an index is left out, or a token seen before comes again as another.
   */
  accept(event: TokenEvent): number {
    const known = this.#tokens.length;
    if (event.index > known) throw this.#broken(`jumps from token ${known} to ${event.index}`, event.index);
    for (const [offset, id] of event.ids.entries()) {
      const index = event.index + offset;
      const seen = this.#tokens[index];
      if (seen === undefined) this.#tokens.push(tokenAt(event, index, offset, id));
      else if (seen.id !== id) throw this.#broken(`changes token ${index} from ${seen.id} to ${id}`, index);
    }
    return this.#tokens.length - known;
  }

  /** RallyError `internal` unless the log held as many tokens as its owner says. */
  checkComplete(outputTokens: number): void {
    const found = this.#tokens.length;
    if (found !== outputTokens) throw this.#broken(`ends after ${found} of ${outputTokens} tokens`, found);
  }

  #broken(how: string, index: number): RallyError {
    return new RallyError("internal", `the token log of request ${this.#requestId} is broken: it ${how}`, {
      requestId: this.#requestId,
      index,
    });
  }
}

function tokenAt(event: TokenEvent, index: number, offset: number, id: number): Token {
  const logprob = event.logprobs?.[offset];
  return { index, id, text: event.texts[offset] ?? "", ...(logprob !== undefined && { logprob }) };
}
