import type { Subscription } from "../../infra/bus.ts";
import type { Clock, Timer } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { readLogEvent } from "../protocol/decode.ts";
import type { EndEvent, FinishReason, LogEvent } from "../protocol/messages.ts";
import { type Token, TokenFeed } from "./token-feed.ts";

/** A completed request. A resumed one too is reported whole, from its first token. */
export interface GenerationResult {
  readonly requestId: string;
  /** The whole text. It may end with a piece that no token carried: text held back for a stop string that did not come. */
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly finishReason: FinishReason;
  /** From the call to the first token here; of a resumed request, from the call to `resume`. Milliseconds. */
  readonly ttftMs: number;
  /** From the call to the ending here. Milliseconds. */
  readonly elapsedMs: number;
}

export interface GenerationOptions {
  readonly requestId: string;
  readonly fromIndex: number;
  readonly clock: Clock;
  /** Asks the request's owner to stop; sent again until the ending comes, for the owner may change or not exist yet. */
  readonly sendCancel: () => void;
}

const CANCEL_EVERY_MS = 500;

/**
 * One request as its token log tells it. Iterating yields each token once, in order, and throws what `result` rejects with: a
 * RallyError with the server's code if the request failed, `cancelled` if it was cancelled. Each iteration starts anew at the
 * first token. Leaving an iteration early stops following (`result` then rejects with `closed`) but not the request, which only
 * `cancel` does. A slow reader holds up nobody: tokens are kept here until the end, at most the request's `maxTokens`.
 */
export interface Generation extends AsyncIterable<Token> {
  readonly requestId: string;
  readonly result: Promise<GenerationResult>;
  /** What has come so far, from the request's first token. */
  readonly tokens: readonly Token[];
  /** The text in pieces as it comes, none empty; joined they are the whole text from the index on. */
  texts(): AsyncGenerator<string, void, undefined>;
  /** Asks for the request's end; the iteration and `result` then end with `cancelled`, unless another ending came first. */
  cancel(): void;
}

/** A Generation with the side that RallyClient feeds. */
export class FollowedGeneration implements Generation {
  readonly requestId: string;
  readonly result: Promise<GenerationResult>;
  readonly #options: GenerationOptions;
  readonly #feed: TokenFeed;
  readonly #startedAt: number;
  #settle: (ending: GenerationResult | RallyError) => void = () => undefined;
  #firstTokenAt: number | undefined;
  #subscription: Subscription | undefined;
  #ended: GenerationResult | RallyError | undefined;
  #waiting: (() => void)[] = [];
  #cancelTimer: Timer | undefined;

  constructor(options: GenerationOptions) {
    this.#options = options;
    this.requestId = options.requestId;
    this.#feed = new TokenFeed(options.requestId);
    this.#startedAt = options.clock.elapsed();
    this.result = new Promise((resolve, reject) => {
      this.#settle = (ending) => (ending instanceof RallyError ? reject(ending) : resolve(ending));
    });
    // Who only iterates gets the error there.
    this.result.catch(() => undefined);
  }

  get tokens(): readonly Token[] {
    return this.#feed.tokens;
  }

  cancel(): void {
    if (this.#ended !== undefined || this.#cancelTimer !== undefined) return;
    this.#options.sendCancel();
    this.#cancelTimer = this.#options.clock.after(CANCEL_EVERY_MS, () => {
      this.#cancelTimer = undefined;
      this.cancel();
    });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Token, void, undefined> {
    try {
      for (let index = this.#options.fromIndex; ; index++) {
        while (this.#feed.tokens.length <= index && this.#ended === undefined) {
          await new Promise<void>((resolve) => this.#waiting.push(resolve));
        }
        const token = this.#feed.tokens[index];
        if (token !== undefined) yield token;
        else if (this.#ended instanceof RallyError) throw this.#ended;
        else return;
      }
    } finally {
      this.#stopFollowing();
    }
  }

  async *texts(): AsyncGenerator<string, void, undefined> {
    for await (const { text } of this) if (text !== "") yield text;
    const { text } = await this.result;
    const carried = joined(this.#feed.tokens);
    if (text.length > carried.length) yield text.slice(carried.length);
  }

  /** What to end once no more entries are wanted. */
  follows(subscription: Subscription): void {
    this.#subscription = subscription;
    if (this.#ended !== undefined) this.#release();
  }

  /**
   * An entry of the log; true if it is of this request's owner. Anybody can publish to the subject: what cannot be read or
   * names another request is stepped over, just as an owner that takes the request over steps over it.
   */
  entry(payload: Uint8Array): boolean {
    const event = readLogEvent(payload);
    if (event?.requestId !== this.requestId) return false;
    if (this.#ended === undefined) this.#accept(event);
    return true;
  }

  /** The request has no ending that the log could tell. */
  fail(error: RallyError): void {
    this.#end(error);
  }

  #accept(event: LogEvent): void {
    try {
      if (event.kind !== "tokens") return this.#end(this.#ending(event));
      if (this.#feed.accept(event) === 0) return;
      this.#firstTokenAt ??= this.#options.clock.elapsed();
      this.#wake();
    } catch (thrown) {
      this.#end(RallyError.from(thrown));
    }
  }

  #ending(event: EndEvent): GenerationResult | RallyError {
    if (event.kind === "completed") return this.#completed(event);
    if (event.kind === "failed") return RallyError.fromWire(event.error);
    return new RallyError("cancelled", `request ${this.requestId} was cancelled`, {
      requestId: this.requestId,
      ...event.usage,
    });
  }

  #completed(event: Extract<EndEvent, { kind: "completed" }>): GenerationResult {
    const now = this.#options.clock.elapsed();
    this.#feed.checkComplete(event.usage.outputTokens);
    return {
      requestId: this.requestId,
      text: joined(this.#feed.tokens) + event.text,
      tokenIds: this.#feed.tokens.map(({ id }) => id),
      ...event.usage,
      finishReason: event.finishReason,
      ttftMs: (this.#firstTokenAt ?? now) - this.#startedAt,
      elapsedMs: now - this.#startedAt,
    };
  }

  #end(ending: GenerationResult | RallyError): void {
    if (this.#ended !== undefined) return;
    this.#ended = ending;
    this.#settle(ending);
    this.#release();
    this.#wake();
  }

  #stopFollowing(): void {
    const nextIndex = this.#feed.tokens.length;
    this.#end(
      new RallyError(
        "closed",
        `request ${this.requestId} is no longer followed; resume(requestId, ${nextIndex}) goes on`,
        {
          requestId: this.requestId,
          nextIndex,
        },
      ),
    );
  }

  #release(): void {
    this.#cancelTimer?.cancel();
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

function joined(tokens: readonly Token[]): string {
  return tokens.map(({ text }) => text).join("");
}
