import type { Clock } from "../../infra/clock.ts";
import type { DurableLog, Job } from "../../infra/durable.ts";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import { decodeGenerateRequest, requestIdOf } from "../protocol/decode.ts";
import type { GenerateRequest } from "../protocol/messages.ts";
import { isName, type Subjects } from "../protocol/subjects.ts";
import type { Cancels } from "./cancels.ts";
import { endUnserved } from "./ending.ts";
import { type Logged, readLogged } from "./logged.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { deadlineExceeded, OwnedRequest } from "./owned-request.ts";
import type { OwnedRequests } from "./owned-requests.ts";
import { promptIds } from "./prompt.ts";
import type { EngineRequest } from "./sequence.ts";
import { TokenLogWriter } from "./token-log.ts";
import { tooLate } from "./too-late.ts";

/** The engine as the control side sees it: in this thread (tests) or in a worker. */
interface EnginePort {
  admit(request: EngineRequest): void;
  release(key: number): void;
}

export interface AdmissionOptions {
  readonly log: DurableLog;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly deployment: string;
  readonly attentionId: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly engine: EnginePort;
  readonly appendsPerSecond: number;
  /** Owners that a request may lose in a row, none of which got a token out of it, before it is taken for poison. */
  readonly maxLostOwners?: number;
  /** How long so many tokens will take a request that begins now; 0 if there is nothing to fear. */
  readonly msFor: (numTokens: number) => number;
  readonly warn: (text: string) => void;
}

/** How long the queue keeps a request that could not be taken just now. */
export const COME_BACK_MS = 250;
const MAX_LOST_OWNERS = 3;
/**
 * After so many it is suspected, and gets one more try, as the only suspect of its owner. Others that run with it are not blamed
 * if that is lost too: they have got tokens since they were taken, or are not suspected yet.
 */
const SUSPECT_AFTER = 2;
/** Deliveries that did not even get to a claim have mostly failed for want of a store, so many of them are borne. */
const DELIVERIES_PER_LOST_OWNER = 10;

/** Three seconds: more than a sender needs to put a damaged request again. */
const DAMAGED_DELIVERIES = 12;

const BEING_TAKEN = { isInDoubt: true } as const;

/** Trouble with the store or another owner, not with the request: the queue keeps it and brings it again. */
const NOT_THE_REQUESTS_FAULT: ReadonlySet<ErrorCode> = new Set([
  "stale-owner",
  "store-unavailable",
  "server-unavailable",
  "no-responders",
  "timeout",
  "closed",
  "corrupted",
]);

/** From a job of the queue to a sequence in the engine, or to an ending straight away. */
export class Admission {
  readonly #options: AdmissionOptions;
  readonly #owned: OwnedRequests;
  readonly #cancels: Cancels;
  /** Request ids on their way from the queue to `#owned`. */
  readonly #taking = new Set<string>();
  /** The last one that was suspected; `BEING_TAKEN` until it is owned. */
  #suspect: Pick<OwnedRequest, "isInDoubt"> | undefined;
  #nextKey = 1;
  #numRefused = 0;

  constructor(options: AdmissionOptions, owned: OwnedRequests, cancels: Cancels) {
    this.#options = options;
    this.#owned = owned;
    this.#cancels = cancels;
  }

  get numRefused(): number {
    return this.#numRefused;
  }

  /** Never throws. */
  async take(job: Job): Promise<void> {
    let request: GenerateRequest;
    try {
      request = decodeGenerateRequest(job.payload);
    } catch (thrown) {
      return this.#unreadable(job, RallyError.from(thrown));
    }
    const { requestId } = request;
    const fingerprint = fingerprintOf(request);
    const owned = this.#owned.withRequestId(requestId);
    if (owned !== undefined && owned.fingerprint !== fingerprint) return this.#drop(job, requestId);
    if (owned !== undefined) return owned.adopt(job);
    if (this.#taking.has(requestId)) return job.release(COME_BACK_MS);
    this.#taking.add(requestId);
    try {
      await this.#own(job, request, fingerprint);
    } catch (thrown) {
      const error = RallyError.from(thrown);
      if (NOT_THE_REQUESTS_FAULT.has(error.code)) {
        this.#options.warn(`${requestId}: ${error.message}; it goes back to the queue`);
        job.release(COME_BACK_MS);
      } else await this.#refuse(job, requestId, error);
    } finally {
      this.#taking.delete(requestId);
    }
  }

  /** One that was damaged on its way is left to its sender for a while, who finds out and puts it again. */
  async #unreadable(job: Job, error: RallyError): Promise<void> {
    const { id, payload, delivery } = job;
    const requestId = requestIdOf(payload) ?? (id !== undefined && isName(id) ? id : undefined);
    if (payload.length > 0 || requestId === undefined) return this.#refuse(job, requestId, error);
    if (delivery < DAMAGED_DELIVERIES) return job.release(COME_BACK_MS);
    const text = "the request was changed on its way to the queue: send it again, under another id";
    await this.#refuse(job, requestId, new RallyError("corrupted", text, { requestId, retryAfterMs: 1 }));
  }

  async #own(job: Job, request: GenerateRequest, fingerprint: string): Promise<void> {
    const { log, subjects, clock, tokenizer, config, engine, warn } = this.#options;
    const { requestId } = request;
    this.#checkDeployment(request);
    const logged = readLogged(await log.read(subjects.tokens(requestId)), requestId);
    if (logged.numForeign > 0)
      warn(`${requestId}: ${logged.numForeign} entries of its token log are damaged or foreign`);
    if (logged.hasEnded) return job.done();
    if (logged.request !== undefined && logged.request !== fingerprint) return this.#drop(job, requestId);
    const prompt = promptIds(request, tokenizer, config);
    const numLost = numLostOwners(job, logged);
    const poison = this.#poison(job, numLost);
    // One whose time is up is not computed any more: it is told so at once.
    const isSuspect = numLost >= SUSPECT_AFTER && poison === undefined && request.deadline > clock.now();
    // One at a time: if this actor is lost, it shall be clear with whom.
    if (isSuspect && this.#suspect?.isInDoubt === true) return job.release(COME_BACK_MS);
    const key = this.#nextKey++;
    const writer = this.#writer(key, { requestId, fingerprint }, logged);
    const isTakeover = job.delivery > 1 || logged.lastSeq > 0;
    if (isSuspect) this.#suspect = BEING_TAKEN;
    try {
      if (isTakeover && poison === undefined) await writer.claim();
    } catch (thrown) {
      if (isSuspect) this.#suspect = undefined;
      throw thrown;
    }
    const owned = new OwnedRequest({
      request,
      job,
      clock,
      owner: this.#options.attentionId,
      promptTokens: prompt.length,
      eosTokenIds: config.eosTokenIds,
      decoder: tokenizer.decodeStream(),
      writer,
      loggedIds: logged.tokenIds,
      release: () => engine.release(key),
      over: () => this.#owned.remove(key),
    });
    this.#owned.add(key, owned);
    if (isSuspect) this.#suspect = owned;
    if (owned.replay()) return;
    if (poison !== undefined) return owned.fail(poison);
    if (this.#cancels.has(requestId)) return owned.cancel();
    if (request.deadline <= clock.now()) return owned.fail(deadlineExceeded(request));
    const neededMs = this.#options.msFor(request.maxTokens);
    // Computed in vain, it would cost others their time too: under overload nobody would be served.
    if (logged.tokenIds.length === 0 && request.deadline < clock.now() + neededMs) {
      return owned.fail(tooLate(neededMs, request.deadline - clock.now()));
    }
    try {
      engine.admit({
        key,
        tokenIds: [...prompt, ...logged.tokenIds],
        numPromptTokens: prompt.length,
        maxTokens: request.maxTokens,
        sampling: request.sampling,
        logprobs: request.logprobs,
      });
    } catch (thrown) {
      owned.fail(RallyError.from(thrown));
    }
  }

  #writer(
    key: number,
    { requestId, fingerprint }: { readonly requestId: string; readonly fingerprint: string },
    logged: Logged,
  ): TokenLogWriter {
    const { log, clock, subjects, attentionId, appendsPerSecond, warn } = this.#options;
    return new TokenLogWriter({
      log,
      clock,
      subject: subjects.tokens(requestId),
      requestId,
      owner: attentionId,
      request: fingerprint,
      lastSeq: logged.lastSeq,
      numTokens: logged.tokenIds.length,
      // The more requests, the more tokens each gathers between two appends.
      spacing: () => (this.#owned.size * 1000) / appendsPerSecond,
      fenced: () => this.#owned.withKey(key)?.fence(),
      warn,
    });
  }

  /** Another request under an id that is taken: the log belongs to the first, so nobody can be told. */
  async #drop(job: Job, requestId: string): Promise<void> {
    this.#numRefused++;
    this.#options.warn(`dropped another request under the id ${requestId}, which is taken`);
    await job.done().catch(() => job.release(COME_BACK_MS));
  }

  #checkDeployment(request: GenerateRequest): void {
    const { deployment } = this.#options;
    if (request.deployment === deployment) return;
    throw new RallyError("unknown-deployment", `this is ${deployment}, the request is for ${request.deployment}`, {
      field: "deployment",
      found: request.deployment,
      expected: deployment,
    });
  }

  #poison(job: Job, numLost: number): RallyError | undefined {
    const limit = this.#options.maxLostOwners ?? MAX_LOST_OWNERS;
    if (job.delivery <= limit || numLost < limit) return undefined;
    return new RallyError("internal", `given up: ${numLost} attention actors in a row were lost with this request`, {
      lostOwners: numLost,
      limit,
    });
  }

  /** An ending for a request that cannot be served; without a request id only a counted warning is possible. */
  async #refuse(job: Job, requestId: string | undefined, error: RallyError): Promise<void> {
    const { warn } = this.#options;
    this.#numRefused++;
    let isTold = true;
    try {
      if (requestId !== undefined) {
        const ending = { kind: "failed", error: error.toWire() } as const;
        // What an owner has accepted before stays: this is another message under the same id. Only a broken log is ended.
        const when = error.code === "internal" ? "always" : "if-empty";
        isTold = await endUnserved({ ...this.#options, requestId }, ending, when);
      }
      const what = requestId ?? "a message without request id";
      warn(`${isTold ? "refused" : "dropped another message under the id of"} ${what}: ${error.message}`);
      await job.done();
    } catch (thrown) {
      warn(`refusal not written: ${RallyError.from(thrown).message}`);
      job.release(COME_BACK_MS);
    }
  }
}

/** Owners in a row that a request has lost, none of which got a token out of it. */
function numLostOwners({ delivery }: Job, { lastSeq, numIdleClaims }: Logged): number {
  if (delivery === 1) return 0;
  // The first owner claims nothing.
  return lastSeq > 0 ? numIdleClaims + 1 : Math.floor(delivery / DELIVERIES_PER_LOST_OWNER);
}
