import { RallyError } from "../../infra/errors.ts";
import type { FfnShard } from "../../models/stages.ts";
import { combine, type FfnSide, type Trip } from "./ffn-side.ts";
import { OutputBuffers } from "./output-buffers.ts";

/** The experts in the attention actor's own process and thread: one trip at a time, because they share buffers. */
export class LocalFfn implements FfnSide {
  readonly #shards: readonly FfnShard[];
  readonly #buffers: OutputBuffers;
  /** By micro-batch; those that are still wanted. */
  readonly #trips = new Map<number, Trip>();
  #last: Promise<void> = Promise.resolve();

  constructor(shards: readonly FfnShard[]) {
    this.#shards = shards;
    this.#buffers = new OutputBuffers(shards.length);
  }

  get pending(): number {
    return this.#trips.size;
  }

  readonly creditsInUse = 0;

  forward(trip: Trip, done: (error?: Error) => void): Promise<void> {
    this.#trips.set(trip.microBatch, trip);
    this.#last = this.#last.then(() => this.#make(trip, done));
    return this.#last;
  }

  abandon(microBatch: number): void {
    this.#trips.delete(microBatch);
  }

  async #make(trip: Trip, done: (error?: Error) => void): Promise<void> {
    if (!this.#isWanted(trip)) return;
    const { hidden, residual } = trip.pass;
    const outputs = this.#buffers.of(0, hidden.length);
    let error: RallyError | undefined;
    try {
      await this.#compute(trip, outputs);
    } catch (thrown) {
      error = RallyError.from(thrown, "session-failed");
    }
    // What runs cannot be stopped; its result is thrown away.
    if (!this.#isWanted(trip)) return;
    this.#trips.delete(trip.microBatch);
    if (error === undefined) combine(hidden, residual, outputs);
    done(error);
  }

  #isWanted(trip: Trip): boolean {
    return this.#trips.get(trip.microBatch) === trip;
  }

  async #compute({ layer, pass }: Trip, outputs: readonly Float32Array[]): Promise<void> {
    const { numTokens, ffnInput: hidden, expertIds, expertWeights } = pass;
    const batch = { layer, numTokens, hidden, expertIds, expertWeights };
    for (let s = 0; s < outputs.length; s++) {
      await (this.#shards[s] as FfnShard).forward(batch, outputs[s] as Float32Array);
    }
  }
}
