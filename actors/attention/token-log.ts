import type { Clock, Timer } from "../../infra/clock.ts";
import { encode } from "../../infra/codec.ts";
import type { DurableLog } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import type { EndEvent, TokenEvent, TokenLogprob } from "../protocol/messages.ts";

export interface LoggedToken {
  readonly id: number;
  readonly text: string;
  readonly logprob?: TokenLogprob;
}

export interface TokenLogOptions {
  readonly log: DurableLog;
  readonly clock: Clock;
  readonly subject: string;
  readonly requestId: string;
  readonly owner: string;
  /** Fingerprint of the request. */
  readonly request: string;
  /** Where the log stands: seq of its last entry and the number of tokens in it. */
  readonly lastSeq: number;
  readonly numTokens: number;
  /** Least time between two appends of this request; tokens gather in between. Milliseconds. */
  readonly spacing: () => number;
  /** Somebody else has written: nothing of ours will be accepted any more. */
  readonly fenced: () => void;
  readonly warn: (text: string) => void;
}

interface Append {
  readonly payload: Uint8Array;
  readonly id: string;
  readonly appended: () => void;
}

const RETRY_MS = [50, 100, 250, 500, 1000];
/** Keeps an event with 20 alternatives per token far below the usual `max_payload`. */
const MAX_TOKENS_PER_EVENT = 256;

/**
 * One request's appends to the token log: at most one under way, each naming the seq it must follow, so that the store itself
 * refuses a stale owner. While one is under way tokens gather, which batches by itself when the store is slow. An append
 * without an answer is repeated with the same id until the store says yes or somebody else has written.
 */
export class TokenLogWriter {
  readonly #options: TokenLogOptions;
  #lastSeq: number;
  #index: number;
  #tokens: LoggedToken[] = [];
  #end: EndEvent | undefined;
  #ended: ((written: boolean) => void) | undefined;
  /** An append is under way or waits to be repeated. */
  #busy = false;
  /** The fingerprint is in the log, or on its way in the present append. */
  #isNamed = false;
  #stopped = false;
  #timer: Timer | undefined;
  #nextAt = 0;

  constructor(options: TokenLogOptions) {
    this.#options = options;
    this.#lastSeq = options.lastSeq;
    this.#index = options.numTokens;
  }

  push(token: LoggedToken): void {
    this.#tokens.push(token);
    this.#pump();
  }

  /** Appends what is left and then the terminal event. True once that is on disk, false if somebody else came first. */
  end(event: EndEvent): Promise<boolean> {
    if (this.#stopped) return Promise.resolve(false);
    this.#end = event;
    return new Promise((resolve) => {
      this.#ended = resolve;
      this.#pump();
    });
  }

  /**
   * Makes this owner the only one whose appends are accepted, by an entry without tokens. Needed after a redelivery, when the
   * old owner may still be alive. RallyError `stale-owner` if the log has moved on since it was read.
   */
  async claim(): Promise<void> {
    await this.#say("claim");
    this.#isNamed = true;
  }

  /**
   * Stops for good, with an entry without tokens that says so, unless an append is under way: that may have left tokens, which
   * say as much. What was pushed last is left out. RallyError if the store does not take it.
   */
  async leave(): Promise<void> {
    const isIdle = !this.#busy && !this.#stopped && this.#end === undefined;
    this.#stop();
    if (isIdle) await this.#say("left");
  }

  async #say(what: "claim" | "left"): Promise<void> {
    const { log, subject, requestId, owner, request } = this.#options;
    const common = { kind: "tokens", requestId, owner, index: this.#index, ids: [], texts: [], request } as const;
    const event: TokenEvent = what === "left" ? { ...common, left: true } : common;
    const id = `${requestId}:${this.#index}:${what}:${owner}:${this.#lastSeq}`;
    this.#lastSeq = (await log.append(subject, encode(event), { id, expectedLastSeq: this.#lastSeq })).seq;
  }

  /** Stops for good without an ending: the request is given back or lost. */
  abandon(): void {
    this.#stop();
    this.#ended?.(false);
  }

  #stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#tokens = [];
  }

  #pump(): void {
    if (this.#busy || this.#stopped) return;
    const { clock, requestId, owner } = this.#options;
    const wait = this.#end === undefined ? this.#nextAt - clock.elapsed() : 0;
    if (wait > 0) {
      this.#timer ??= clock.after(wait, () => {
        this.#timer = undefined;
        this.#pump();
      });
      return;
    }
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#tokens.length > 0) {
      const tokens = this.#tokens.splice(0, MAX_TOKENS_PER_EVENT);
      this.#append({
        payload: this.#tokenEvent(tokens),
        // With the owner: another owner's entry at this index is no duplicate of ours but the sign that we are replaced.
        id: `${requestId}:${this.#index}:${owner}`,
        appended: () => {
          this.#index += tokens.length;
          const isFull = tokens.length === MAX_TOKENS_PER_EVENT;
          this.#nextAt = isFull ? 0 : clock.elapsed() + this.#options.spacing();
        },
      });
    } else if (this.#end !== undefined) {
      const ended = () => {
        this.#stop();
        this.#ended?.(true);
      };
      this.#append({ payload: encode(this.#end), id: `${requestId}:end:${owner}`, appended: ended });
    }
  }

  #append(entry: Append, numFailures = 0): void {
    this.#busy = true;
    const { log, subject } = this.#options;
    log.append(subject, entry.payload, { id: entry.id, expectedLastSeq: this.#lastSeq }).then(
      ({ seq }) => {
        if (this.#stopped) return;
        this.#busy = false;
        this.#lastSeq = seq;
        entry.appended();
        this.#pump();
      },
      (thrown: unknown) => {
        if (!this.#stopped) this.#refused(entry, numFailures, RallyError.from(thrown));
      },
    );
  }

  #refused(entry: Append, numFailures: number, error: RallyError): void {
    const { clock, fenced, warn, requestId } = this.#options;
    if (error.code === "stale-owner") {
      this.abandon();
      fenced();
      return;
    }
    if (numFailures === 0) warn(`token log of ${requestId}: ${error.message}; trying again`);
    const delay = RETRY_MS[Math.min(numFailures, RETRY_MS.length - 1)] as number;
    this.#timer = clock.after(delay, () => {
      this.#timer = undefined;
      this.#append(entry, numFailures + 1);
    });
  }

  #tokenEvent(tokens: readonly LoggedToken[]): Uint8Array {
    const { requestId, owner, request } = this.#options;
    const isNamed = this.#isNamed;
    this.#isNamed = true;
    const logprobs = tokens.flatMap(({ logprob }) => (logprob === undefined ? [] : [logprob]));
    const event: TokenEvent = {
      kind: "tokens",
      requestId,
      owner,
      index: this.#index,
      ids: tokens.map(({ id }) => id),
      texts: tokens.map(({ text }) => text),
      ...(logprobs.length > 0 && { logprobs }),
      ...(!isNamed && { request }),
    };
    return encode(event);
  }
}
