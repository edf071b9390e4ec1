import type { Clock, Timer } from "../../infra/clock.ts";
import type { Job } from "../../infra/durable.ts";
import { assert, RallyError } from "../../infra/errors.ts";
import { StopMatcher } from "../../models/stop.ts";
import type { DecodeStream } from "../../models/tokenizer/tokenizer.ts";
import type { EndEvent, FinishReason, GenerateRequest } from "../protocol/messages.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { IdleLimit } from "./idle-limit.ts";
import { createRequestActor } from "./request-actor.ts";
import type { EngineToken } from "./sequence.ts";
import type { TokenLogWriter } from "./token-log.ts";

export interface OwnedRequestOptions {
  readonly request: GenerateRequest;
  readonly job: Job;
  readonly clock: Clock;
  readonly owner: string;
  readonly promptTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly decoder: DecodeStream;
  readonly writer: TokenLogWriter;
  /** Tokens an earlier owner has logged; replayed through text and stop strings, not logged again. */
  readonly loggedIds: readonly number[];
  /** Takes the sequence out of the engine; harmless if it is not there. */
  readonly release: () => void;
  /** Called once, when the request is off this actor's hands. */
  readonly over: () => void;
}

/** Timers hold 31 bits of milliseconds, deadlines more. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const LEAVE_LIMIT_MS = 500;

/** A request at its owner: turns the engine's token ids into text and log entries, and sees to exactly one ending. */
export class OwnedRequest {
  readonly #options: OwnedRequestOptions;
  readonly #actor = createRequestActor();
  readonly #stop: StopMatcher;
  /** More than one if the queue has delivered the request again in the meantime. */
  readonly #jobs: Job[];
  #deadline: Timer | undefined;
  readonly #idleLimit: IdleLimit | undefined;
  #outputTokens = 0;
  #isLeaving = false;
  #isOver = false;

  constructor(options: OwnedRequestOptions) {
    this.#options = options;
    this.#jobs = [options.job];
    this.#stop = new StopMatcher(options.request.stop);
    this.#watchDeadline();
    const { clock, request } = options;
    const { idleLimitMs } = request;
    this.#idleLimit = idleLimitMs === undefined ? undefined : new IdleLimit(clock, idleLimitMs, () => this.cancel());
  }

  get requestId(): string {
    return this.#options.request.requestId;
  }

  get fingerprint(): string {
    return fingerprintOf(this.#options.request);
  }

  get machineMs(): number {
    return this.#actor.spentMs;
  }

  /** It is here, and has not got a token yet. */
  get isInDoubt(): boolean {
    return !this.#isOver && this.#outputTokens === this.#options.loggedIds.length;
  }

  /**
   * Replays what is logged. True if the log already holds the last token, so that only the ending is missing; else the
   * engine is to go on after the logged tokens.
   */
  replay(): boolean {
    const { loggedIds, eosTokenIds, request } = this.#options;
    this.#actor.send("admit");
    for (const id of loggedIds) {
      this.#outputTokens++;
      if (eosTokenIds.includes(id)) return this.#finish("eos", this.#rest());
      if (this.#text(id).stopped) return this.#finish("stop", "");
    }
    return this.#outputTokens >= request.maxTokens && this.#finish("length", this.#rest());
  }

  token(token: EngineToken): void {
    // The engine may be a step ahead of a stop string, a cancel or a deadline.
    if (this.#actor.isFinal) return;
    assert(token.index === this.#outputTokens, `token ${token.index} follows ${this.#outputTokens}`);
    this.#outputTokens++;
    if (this.#actor.phase === "prefilling") this.#actor.send("firstToken");
    // The end-of-sequence token is no text.
    const { emit, stopped } = token.finish === "eos" ? { emit: "", stopped: false } : this.#text(token.id);
    const { logprob } = token;
    this.#options.writer.push({ id: token.id, text: emit, ...(logprob !== undefined && { logprob }) });
    if (stopped) this.#finish("stop", "");
    else if (token.finish !== undefined) this.#finish(token.finish, this.#rest());
  }

  fail(error: RallyError): void {
    if (this.#actor.isFinal) return;
    this.#actor.send("fail");
    this.#end({ ...this.#terminal(), kind: "failed", error: error.toWire() });
  }

  cancel(): void {
    if (this.#actor.isFinal) return;
    this.#actor.send("cancel");
    this.#end({ ...this.#terminal(), kind: "cancelled" });
  }

  /** Somebody else has written to the log: let go without a word. The queue brings the request back to whoever owns it. */
  fence(): void {
    this.#actor.send("fence");
    this.#options.writer.abandon();
    this.#letGo();
  }

  /** Gives the request back to the queue, to be taken over by another attention actor; also one whose ending is unwritten. */
  giveBack(): void {
    if (this.#isOver || this.#isLeaving) return;
    this.#isLeaving = true;
    this.#actor.send("fence");
    this.#options.release();
    const letGo = () => {
      limit.cancel();
      if (this.#isOver) return;
      this.fence();
      for (const job of this.#jobs) job.release();
    };
    // Whether the log has it or not, somebody else can go on.
    const limit = this.#options.clock.after(LEAVE_LIMIT_MS, letGo);
    this.#options.writer.leave().then(letGo, letGo);
  }

  /** The queue has delivered the same request again: this actor was silent too long, or somebody has sent it twice. */
  adopt(job: Job): void {
    this.#jobs.push(job);
  }

  /** Somebody has said that they want the tokens. */
  followed(): void {
    this.#idleLimit?.followed();
  }

  stillWorking(): void {
    for (const job of this.#jobs) job.working();
  }

  #text(id: number): { emit: string; stopped: boolean } {
    return this.#stop.push(this.#options.decoder.push(id));
  }

  /** Text held back by an incomplete character or a possible stop string. */
  #rest(): string {
    const { emit, stopped } = this.#stop.push(this.#options.decoder.end());
    return stopped ? emit : emit + this.#stop.end();
  }

  #finish(finishReason: FinishReason, text: string): true {
    this.#actor.send("finish");
    this.#end({ ...this.#terminal(), kind: "completed", finishReason, text });
    return true;
  }

  #terminal() {
    const { request, owner, promptTokens } = this.#options;
    return { requestId: request.requestId, owner, usage: { promptTokens, outputTokens: this.#outputTokens } };
  }

  #end(event: EndEvent): void {
    this.#options.release();
    this.#deadline?.cancel();
    this.#idleLimit?.cancel();
    void this.#options.writer.end(event).then(async (written) => {
      // Only now may the queue forget the request: its ending is on disk. A lost ack means a redelivery, which finds the ending.
      if (written) await Promise.allSettled(this.#jobs.map((job) => job.done()));
      this.#letGo();
    });
  }

  #letGo(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#deadline?.cancel();
    this.#idleLimit?.cancel();
    this.#options.release();
    this.#options.over();
  }

  #watchDeadline(): void {
    const { clock, request } = this.#options;
    const left = request.deadline - clock.now();
    this.#deadline = clock.after(Math.min(Math.max(0, left), MAX_TIMER_MS), () => {
      if (clock.now() < request.deadline) this.#watchDeadline();
      else this.fail(deadlineExceeded(request));
    });
  }
}

export function deadlineExceeded({ deadline }: Pick<GenerateRequest, "deadline">): RallyError {
  return new RallyError("deadline-exceeded", "the request's deadline has passed", { deadline });
}
