import { randomUUID } from "node:crypto";
import type { Bus } from "../../infra/bus.ts";
import { type Clock, systemClock, type Timer } from "../../infra/clock.ts";
import { encode } from "../../infra/codec.ts";
import type { Durable, DurableLog, WorkQueue } from "../../infra/durable.ts";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { SamplingParams } from "../../models/sampling/params.ts";
import { FOLLOW_EVERY_MS } from "../protocol/limits.ts";
import { decodeOfferAnswer } from "../protocol/decode.ts";
import type { GenerateRequest, Offer } from "../protocol/messages.ts";
import { openRequestQueue, openTokenLog } from "../protocol/streams.ts";
import { checkName, type Subjects, subjectsOf } from "../protocol/subjects.ts";
import { type GenerateOptions, generateRequest } from "./generate-request.ts";
import { FollowedGeneration, type Generation, type GenerationResult } from "./generation.ts";
import type { Token } from "./token-feed.ts";

export type { GenerateOptions, Generation, GenerationResult, NatsSettings, SamplingParams, Token };
export { RallyError };

export interface RallyClientOptions {
  readonly bus: Bus;
  readonly durable: Durable;
  readonly deployment?: string;
  readonly clock?: Clock;
  readonly newId?: () => string;
}

const DEFAULT_DEPLOYMENT = "default";
/** The owner writes the ending at the deadline; beyond this nobody is there to write one. */
const DEADLINE_GRACE_MS = 3_000;
const UNKNOWN_AFTER_MS = 2_000;
/** A server that is away for longer is not expected back. */
const OUTAGE_LIMIT_MS = 30_000;
const RETRY_MS = 250;
/** An actor that is alive answers at once; one that is not holds nothing up for long. */
const OFFER_TIMEOUT_MS = 250;
/** Troubles of the way to the server. */
const PASSING: ReadonlySet<ErrorCode> = new Set(["timeout", "corrupted"]);

/** Asks a deployment for tokens. Safe for any number of requests at once. */
export class RallyClient {
  readonly deployment: string;
  readonly #bus: Bus;
  readonly #durable: Durable;
  readonly #clock: Clock;
  readonly #newId: () => string;
  readonly #subjects: Subjects;
  readonly #live = new Set<FollowedGeneration>();
  #queue: Promise<WorkQueue> | undefined;
  #log: Promise<DurableLog> | undefined;
  #closeConnection: (() => Promise<void>) | undefined;
  #closed = false;

  /** Over a bus and a durable store that stay the caller's; `connect` is the usual way. */
  constructor(options: RallyClientOptions) {
    this.deployment = options.deployment ?? DEFAULT_DEPLOYMENT;
    this.#subjects = subjectsOf(this.deployment);
    this.#bus = options.bus;
    this.#durable = options.durable;
    this.#clock = options.clock ?? systemClock;
    this.#newId = options.newId ?? randomUUID;
  }

  /** RallyError `server-unavailable` if no server answers, `store-unavailable` if it has no JetStream. */
  static async connect(
    nats: NatsSettings,
    options: { readonly deployment?: string; readonly name?: string } = {},
  ): Promise<RallyClient> {
    const { deployment = DEFAULT_DEPLOYMENT, name = "rally-client" } = options;
    checkName("deployment", deployment);
    const connection = await connectNats(nats, { name });
    const client = new RallyClient({ bus: connection.bus, durable: connection.durable, deployment });
    client.#closeConnection = () => connection.close();
    return client;
  }

  /**
   * Sends a request and follows its tokens. Throws RallyError `bad-request` at once for what no deployment would take; all
   * later refusals (`overloaded`, `context-exceeded`, …) come from the iteration and from `result`.
   */
  generate(options: GenerateOptions): Generation {
    this.#checkOpen();
    const request = generateRequest(options, {
      deployment: this.deployment,
      now: this.#clock.now(),
      newId: this.#newId,
    });
    const generation = this.#generation(request.requestId, 0);
    if (request.idleLimitMs !== undefined) this.#sayFollowed(generation);
    const end = this.#clock.after(request.deadline - this.#clock.now() + DEADLINE_GRACE_MS, () =>
      generation.fail(
        new RallyError("deadline-exceeded", "the deadline has passed and nobody has ended the request", {
          requestId: request.requestId,
          deadline: request.deadline,
        }),
      ),
    );
    void generation.result.catch(() => undefined).finally(() => end.cancel());
    this.#send(request, generation).catch((thrown: unknown) => generation.fail(RallyError.from(thrown)));
    return generation;
  }

  /**
   * Follows a request, anybody's, from a token index on, and to its end. `unknown-request` if its log is empty for 2 s, as it
   * also is while the request waits for its turn; then ask again.
   */
  resume(requestId: string, fromIndex = 0): Generation {
    this.#checkOpen();
    checkName("requestId", requestId);
    if (!Number.isSafeInteger(fromIndex) || fromIndex < 0) {
      throw new RallyError("bad-request", `fromIndex must be an integer from 0, found ${fromIndex}`, {
        field: "fromIndex",
        found: fromIndex,
      });
    }
    const generation = this.#generation(requestId, fromIndex);
    this.#follow(generation, UNKNOWN_AFTER_MS);
    this.#sayFollowed(generation);
    return generation;
  }

  /**
   * Asks for a request's end; resolves when the server has the message, not when the request has ended. While no attention actor
   * is there nobody hears it: `Generation.cancel` asks until the ending has come.
   */
  async cancel(requestId: string): Promise<void> {
    this.#checkOpen();
    this.#bus.publish(this.#subjects.cancel(checkName("requestId", requestId)), new Uint8Array());
    await this.#bus.flush();
  }

  /** Stops following; requests go on. Closes the connection that `connect` made. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const generation of this.#live) generation.fail(new RallyError("closed", "the client was closed"));
    await this.#closeConnection?.();
  }

  #generation(requestId: string, fromIndex: number): FollowedGeneration {
    const subject = this.#subjects.cancel(requestId);
    const generation = new FollowedGeneration({
      requestId,
      fromIndex,
      clock: this.#clock,
      sendCancel: () => void (this.#closed || this.#bus.publish(subject, new Uint8Array())),
    });
    this.#live.add(generation);
    const release = () => void this.#live.delete(generation);
    generation.result.then(release, release);
    return generation;
  }

  /** Following starts beside the sending: the log is read from its beginning, so nothing is missed. */
  async #send(request: GenerateRequest, generation: FollowedGeneration): Promise<void> {
    const refusal = await this.#offer(request);
    if (refusal !== undefined) return generation.fail(refusal);
    if (!this.#live.has(generation)) return;
    this.#follow(generation);
    await this.#put(request);
  }

  /** Asks before it costs anybody more. Nobody's answer, or none that can be read, is no refusal. */
  async #offer({ maxTokens, deadline }: GenerateRequest): Promise<RallyError | undefined> {
    const offer: Offer = { kind: "offer", maxTokens, deadline };
    try {
      const { payload } = await this.#bus.request(this.#subjects.offer, encode(offer), OFFER_TIMEOUT_MS);
      const { error } = decodeOfferAnswer(payload);
      return error?.code === "overloaded" ? RallyError.fromWire(error) : undefined;
    } catch {
      return undefined;
    }
  }

  #follow(generation: FollowedGeneration, unknownAfterMs?: number): void {
    const { requestId } = generation;
    let unknown: Timer | undefined;
    let isKnown = false;
    const release = () => unknown?.cancel();
    generation.result.then(release, release);
    const follow = async () => {
      this.#log ??= openTokenLog(this.#durable, this.#subjects);
      try {
        return await (
          await this.#log
        ).follow(this.#subjects.tokens(requestId), ({ payload }) => {
          if (!generation.entry(payload)) return;
          isKnown = true;
          unknown?.cancel();
        });
      } catch (thrown) {
        this.#log = undefined;
        throw thrown;
      }
    };
    this.#throughOutage(follow).then(
      (subscription) => {
        generation.follows(subscription);
        if (unknownAfterMs !== undefined && !isKnown) {
          unknown = this.#clock.after(unknownAfterMs, () => generation.fail(unknownRequest(requestId)));
        }
      },
      (thrown: unknown) => generation.fail(RallyError.from(thrown)),
    );
  }

  /** For a request with an idle limit: while it is followed here, its owner goes on. */
  #sayFollowed({ requestId, result }: Generation): void {
    let timer: Timer | undefined;
    const say = () => {
      this.#bus.publish(this.#subjects.follow(requestId), new Uint8Array());
      timer = this.#clock.after(FOLLOW_EVERY_MS, say);
    };
    say();
    const stop = () => timer?.cancel();
    result.then(stop, stop);
  }

  /** An unanswered put may have arrived; its id makes sending it again harmless. */
  async #put(request: GenerateRequest): Promise<void> {
    const payload = encode(request);
    const put = async () => {
      this.#queue ??= openRequestQueue(this.#durable, this.#subjects);
      try {
        await (await this.#queue).put(request.requestId, payload);
      } catch (thrown) {
        this.#queue = undefined;
        throw thrown;
      }
    };
    await this.#throughOutage(put, request.deadline);
  }

  /** Tries again while the server is away: it mostly comes back. Any other failure is the answer. */
  async #throughOutage<T>(attempt: () => Promise<T>, deadline = Infinity): Promise<T> {
    const since = this.#clock.elapsed();
    for (;;) {
      try {
        return await attempt();
      } catch (thrown) {
        const error = RallyError.from(thrown);
        const isAway = error.code === "server-unavailable" && this.#clock.elapsed() - since < OUTAGE_LIMIT_MS;
        const mayCome = (isAway || PASSING.has(error.code)) && this.#clock.now() < deadline;
        if (!mayCome || this.#closed) throw error;
        await new Promise<void>((resolve) => this.#clock.after(RETRY_MS, resolve));
      }
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new RallyError("closed", "the client was closed");
  }
}

function unknownRequest(requestId: string): RallyError {
  return new RallyError("unknown-request", `nothing is known of request ${requestId}`, {
    field: "requestId",
    requestId,
  });
}
