import { combine, type FfnSide, type Trip } from "../../actors/attention/ffn-side.ts";
import { FakeShard, fakeSpecs } from "./fake-model.ts";

interface Held {
  readonly trip: Trip;
  readonly done: (error?: Error) => void;
}

/** Experts that answer when the test says so. */
export class ManualFfn implements FfnSide {
  readonly held: Held[] = [];
  readonly abandoned: number[] = [];
  readonly creditsInUse = 0;
  /** Thrown by the next `forward`. */
  refusal: Error | undefined;
  readonly #shard = new FakeShard(fakeSpecs(1)[0] ?? { shard: 0, numShards: 1, experts: [] });

  get pending(): number {
    return this.held.length;
  }

  forward(trip: Trip, done: (error?: Error) => void): void {
    const { refusal } = this;
    this.refusal = undefined;
    if (refusal !== undefined) throw refusal;
    if (this.held.some((other) => other.trip.microBatch === trip.microBatch)) throw new Error("two trips at once");
    this.held.push({ trip, done });
  }

  abandon(microBatch: number): void {
    const index = this.held.findIndex(({ trip }) => trip.microBatch === microBatch);
    if (index < 0) return;
    this.held.splice(index, 1);
    this.abandoned.push(microBatch);
  }

  /** Answers the oldest trip, or that of one micro-batch. */
  async answer(microBatch = this.held[0]?.trip.microBatch): Promise<void> {
    const { trip, done } = this.#take(microBatch);
    const { pass, layer } = trip;
    const output = new Float32Array(pass.hidden.length);
    const { numTokens, ffnInput: hidden, expertIds, expertWeights } = pass;
    await this.#shard.forward({ layer, numTokens, hidden, expertIds, expertWeights }, output);
    combine(pass.hidden, pass.residual, [output]);
    done();
  }

  fail(error: Error, microBatch = this.held[0]?.trip.microBatch): void {
    this.#take(microBatch).done(error);
  }

  #take(microBatch: number | undefined): Held {
    const index = this.held.findIndex(({ trip }) => trip.microBatch === microBatch);
    const [held] = index < 0 ? [] : this.held.splice(index, 1);
    if (held === undefined) throw new Error(`micro-batch ${microBatch} is not with the experts`);
    return held;
  }
}
