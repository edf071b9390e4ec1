import { pause } from "../../infra/chaos/pause.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import type { Clock } from "../../infra/clock.ts";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";
import type { Generation, RallyClient } from "../client/rally-client.ts";
import { newRecord, type RequestRecord } from "./request-record.ts";
import type { Arrival } from "./scenario.ts";
import type { PoolRequest } from "./workload.ts";

export interface LoadOptions {
  readonly client: RallyClient;
  readonly pool: readonly PoolRequest[];
  readonly arrival: Arrival;
  /** Request ids are this and a number. */
  readonly prefix: string;
  readonly seed: number;
  readonly clock: Clock;
  /** Ends the load: nothing more is sent. Closing the client ends what is under way. */
  readonly signal: AbortSignal;
}

/** Refusals after which a client comes back with the same request. */
export const COME_BACK: ReadonlySet<ErrorCode> = new Set([
  "overloaded",
  "store-unavailable",
  "server-unavailable",
  "timeout",
]);
export const COME_BACK_MS = 200;

/** Sends requests as the arrival process says and keeps what came back. */
export class Load {
  readonly records: RequestRecord[] = [];
  readonly #options: LoadOptions;
  readonly #startedAt: number;
  readonly #live = new Map<string, RequestRecord>();
  #next = 0;
  #lastIssuedMs = 0;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#startedAt = options.clock.elapsed();
  }

  /** Milliseconds since the load began. */
  get elapsedMs(): number {
    return this.#options.clock.elapsed() - this.#startedAt;
  }

  /** Until then the arrival process was at full strength. */
  get lastIssuedMs(): number {
    return this.#lastIssuedMs;
  }

  /** Requests under way. */
  get live(): readonly RequestRecord[] {
    return [...this.#live.values()];
  }

  /** Resolves when `more` has said no and every request has ended. */
  async run(more: (numIssued: number) => boolean): Promise<void> {
    const { arrival } = this.#options;
    if (arrival.kind === "closed") {
      await Promise.all(Array.from({ length: arrival.concurrency }, () => this.#oneAfterTheOther(more)));
    } else await this.#poisson(arrival.perSecond, more);
  }

  /** A record for the next request, which somebody else sends. */
  take(): { readonly record: RequestRecord; readonly request: PoolRequest } {
    const { pool, prefix } = this.#options;
    const number = this.#next++;
    const request = pool[number % pool.length];
    if (request === undefined) throw new Error("broken invariant: a load without requests");
    const record = newRecord({
      requestId: `${prefix}-${number}`,
      pool: request.index,
      startedMs: this.elapsedMs,
      allowedMs: request.deadlineMs,
    });
    this.records.push(record);
    this.#live.set(record.requestId, record);
    return { record, request };
  }

  /** Follows a request to its end, whatever it is. */
  async follow(record: RequestRecord, start: () => Generation): Promise<void> {
    try {
      for (;;) {
        const error = await this.#once(record, start);
        if (error === undefined) return this.#end(record, "completed");
        const isOver = this.elapsedMs + COME_BACK_MS >= record.deadlineMs || this.#options.signal.aborted;
        if (isOver || !COME_BACK.has(error.code)) return this.#end(record, error.code, error.message);
        record.refusals.push(error.code);
        await this.#wait(COME_BACK_MS);
      }
    } finally {
      this.#live.delete(record.requestId);
    }
  }

  async #oneAfterTheOther(more: (numIssued: number) => boolean): Promise<void> {
    while (!this.#options.signal.aborted && more(this.#next)) await this.#send();
  }

  async #poisson(perSecond: number, more: (numIssued: number) => boolean): Promise<void> {
    const random = new SeededRandom(this.#options.seed, "arrivals");
    const sent: Promise<void>[] = [];
    let due = 0;
    while (!this.#options.signal.aborted && more(this.#next)) {
      sent.push(this.#send());
      due += random.exponential(1000 / perSecond);
      await this.#wait(due - this.elapsedMs);
    }
    await Promise.all(sent);
  }

  async #send(): Promise<void> {
    const { record, request } = this.take();
    this.#lastIssuedMs = record.startedMs;
    await this.follow(record, () =>
      this.#options.client.generate({
        requestId: record.requestId,
        prompt: request.prompt,
        maxTokens: request.maxTokens,
        sampling: request.sampling,
        deadlineMs: Math.max(1, Math.round(record.deadlineMs - this.elapsedMs)),
      }),
    );
  }

  async #once(record: RequestRecord, start: () => Generation): Promise<RallyError | undefined> {
    try {
      const generation = start();
      for await (const { index, id } of generation) {
        // A request that was sent again is told from its beginning.
        if (record.ids[index] === id) continue;
        if (index !== record.ids.length) record.misplaced++;
        record.arrivals.push(this.elapsedMs);
        record.ids.push(id);
      }
      await generation.result;
      return undefined;
    } catch (thrown) {
      return RallyError.from(thrown);
    }
  }

  #end(record: RequestRecord, ending: "completed" | ErrorCode, text?: string): void {
    record.endedMs = this.elapsedMs;
    record.ending = ending;
    record.endingText = text;
  }

  #wait(ms: number): Promise<void> {
    return pause(this.#options.clock, ms, this.#options.signal);
  }
}
