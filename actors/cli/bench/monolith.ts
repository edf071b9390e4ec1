import { systemClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import type { EngineWorkerData, FromEngine, ToEngine } from "../../attention/engine-messages.ts";
import { RoleThread } from "../../protocol/role-thread.ts";
import type { AttentionSettings } from "../../protocol/role.ts";
import type { TokenTimes } from "./figures.ts";
import type { BenchRequest } from "./workload.ts";

interface Running {
  readonly sentAt: number;
  readonly arrivals: number[];
  readonly done: () => void;
  readonly failed: (error: RallyError) => void;
}

/**
 * The yardstick: the same engine, graphs and batching with the experts in the same thread, two threads inside each graph, no
 * NATS, no token log.
 */
export class Monolith {
  readonly #engine: RoleThread<ToEngine, FromEngine>;
  readonly #running = new Map<number, Running>();
  #nextKey = 1;

  private constructor(settings: AttentionSettings, numThreads: number) {
    const data: EngineWorkerData = { settings, ffn: "local", numThreads, numThreadsAlone: numThreads };
    this.#engine = new RoleThread<ToEngine, FromEngine>("actors/attention/engine-worker", data, {
      progress: () => undefined,
      warning: () => undefined,
      failed: (error) => this.#fail(error),
      message: (message) => this.#receive(message),
    });
  }

  static async start(settings: AttentionSettings, numThreads: number): Promise<Monolith> {
    const monolith = new Monolith(settings, numThreads);
    await monolith.#engine.ready();
    return monolith;
  }

  /** All requests at once; resolves when every one has ended. */
  round(requests: readonly BenchRequest[], maxTokens: number): Promise<TokenTimes[]> {
    return Promise.all(requests.map((request) => this.#generate(request, maxTokens)));
  }

  close(): Promise<void> {
    return this.#engine.close({ kind: "close" });
  }

  async #generate({ tokenIds, seed }: BenchRequest, maxTokens: number): Promise<TokenTimes> {
    const key = this.#nextKey++;
    const sentAt = systemClock.elapsed();
    const arrivals: number[] = [];
    await new Promise<void>((done, failed) => {
      this.#running.set(key, { sentAt, arrivals, done, failed });
      const sampling = { ...DEFAULT_SAMPLING, temperature: 0, seed };
      this.#engine.post({
        kind: "admit",
        request: { key, tokenIds, numPromptTokens: tokenIds.length, maxTokens, sampling, logprobs: undefined },
      });
    });
    return { sentAt, arrivals };
  }

  #receive(message: FromEngine): void {
    const now = systemClock.elapsed();
    if (message.kind === "sequenceFailed") {
      this.#running.get(message.key)?.failed(RallyError.fromWire(message.error));
    } else if (message.kind === "tokens") {
      for (const { key, finish } of message.tokens) {
        const running = this.#running.get(key);
        running?.arrivals.push(now);
        if (finish === undefined) continue;
        this.#running.delete(key);
        running?.done();
      }
    }
  }

  #fail(error: RallyError): void {
    for (const { failed } of this.#running.values()) failed(error);
  }
}
