import { RallyError } from "../../infra/errors.ts";
import type { FfnShard, Pass } from "../../models/stages.ts";
import { combine, type FfnSide, type Trip } from "./ffn-side.ts";
import { OutputBuffers } from "./output-buffers.ts";

interface LocalTrip {
  readonly trip: Trip;
  readonly done: (error?: Error) => void;
}

/** The experts in the attention actor's own process and thread: one trip at a time, because they share buffers. */
export class LocalFfn implements FfnSide {
  readonly #shards: readonly FfnShard[];
  readonly #buffers: OutputBuffers;
  readonly #waiting: LocalTrip[] = [];
  #current: LocalTrip | undefined;
  #running = false;

  constructor(shards: readonly FfnShard[]) {
    this.#shards = shards;
    this.#buffers = new OutputBuffers(shards.length);
  }

  get pending(): number {
    return this.#waiting.length + (this.#current === undefined ? 0 : 1);
  }

  readonly creditsInUse = 0;

  forward(trip: Trip, done: (error?: Error) => void): void {
    this.#waiting.push({ trip, done });
    if (!this.#running) void this.#run();
  }

  abandon(microBatch: number): void {
    const index = this.#waiting.findIndex(({ trip }) => trip.microBatch === microBatch);
    if (index >= 0) this.#waiting.splice(index, 1);
    // What runs cannot be stopped; its result is thrown away.
    if (this.#current?.trip.microBatch === microBatch) this.#current = undefined;
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#current = next;
      let error: RallyError | undefined;
      const outputs = this.#buffers.of(0, next.trip.pass.hidden.length);
      try {
        await this.#compute(next.trip, outputs);
      } catch (thrown) {
        error = RallyError.from(thrown, "session-failed");
      }
      if (this.#current !== next) continue;
      this.#current = undefined;
      const pass: Pass = next.trip.pass;
      if (error === undefined) combine(pass.hidden, pass.residual, outputs);
      next.done(error);
    }
    this.#running = false;
  }

  async #compute({ layer, pass }: Trip, outputs: readonly Float32Array[]): Promise<void> {
    const { numTokens, ffnInput: hidden, expertIds, expertWeights } = pass;
    for (const [s, shard] of this.#shards.entries()) {
      await shard.forward({ layer, numTokens, hidden, expertIds, expertWeights }, outputs[s] as Float32Array);
    }
  }
}
