import { RallyError } from "../../infra/errors.ts";
import type { FfnShard, SharedExperts } from "../../models/stages.ts";
import { combine, type FfnSide, type Trip } from "./ffn-side.ts";
import { OutputBuffers } from "./output-buffers.ts";

/** The experts in the attention actor's own process and thread: one trip at a time, because they share buffers. */
export class LocalFfn implements FfnSide {
  readonly #shards: readonly FfnShard[];
  readonly #sharedExperts: SharedExperts | undefined;
  readonly #buffers: OutputBuffers;
  /** By micro-batch; those that are still wanted. */
  readonly #trips = new Map<number, Trip>();
  #last: Promise<void> = Promise.resolve();

  /** `sharedExperts`: for shards that are without. */
  constructor(shards: readonly FfnShard[], sharedExperts?: SharedExperts) {
    this.#shards = shards;
    this.#sharedExperts = sharedExperts;
    this.#buffers = new OutputBuffers(1 + shards.length);
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
    const [sum, ...outputs] = this.#buffers.of(0, hidden.length) as [Float32Array, ...Float32Array[]];
    const base = this.#sharedExperts === undefined ? residual : sum;
    let error: RallyError | undefined;
    try {
      await this.#sharedExperts?.forward(trip.pass, trip.layer, base);
      await this.#compute(trip, outputs);
    } catch (thrown) {
      error = RallyError.from(thrown, "session-failed");
    }
    // What runs cannot be stopped; its result is thrown away.
    if (!this.#isWanted(trip)) return;
    this.#trips.delete(trip.microBatch);
    if (error === undefined) combine(hidden, base, outputs);
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
