import { Expert } from "../../actors/expert/expert.ts";
import { decodeActivationBatch } from "../../actors/protocol/decode.ts";
import type { Subjects } from "../../actors/protocol/subjects.ts";
import type { Bus, BusHandler, Subscription } from "../../infra/bus.ts";
import type { SimulatedClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { MemoryBus } from "../../infra/memory-bus.ts";
import { fakeConfig, FakeShard, fakeSpecs } from "./fake-model.ts";
import { encodedSealed } from "./sealed.ts";

/** Real expert actors behind a bus that loses, repeats and refuses some messages, in a fixed pseudo-random order. */
export class LossyExperts {
  readonly #experts: Expert[] = [];
  readonly #clock: SimulatedClock;
  readonly #fates: { readonly lost: number; readonly repeated: number; readonly refused: number };
  #state = 1;
  numDisturbed = 0;
  largestPart = 0;

  constructor(
    bus: MemoryBus,
    clock: SimulatedClock,
    subjects: Subjects,
    options: {
      readonly numShards: number;
      readonly withoutShared: boolean;
      readonly replicas: number;
      readonly lost: number;
      readonly repeated: number;
      readonly refused: number;
    },
  ) {
    this.#fates = options;
    this.#clock = clock;
    for (const spec of fakeSpecs(options.numShards, fakeConfig, options.withoutShared)) {
      for (let replica = 0; replica < options.replicas; replica++) {
        const expert = new Expert({
          bus: this.#disturbed(bus.connect(), spec.shard),
          clock,
          subjects,
          deployment: "d",
          expertId: `e${spec.shard}-${replica}`,
          config: fakeConfig,
          ffn: new FakeShard(spec),
          epoch: () => 1,
          maxWaitingBatches: 64,
          observer: {
            ran: () => undefined,
            badMessage: (reason) => {
              throw new Error(reason);
            },
          },
          faulted: () => undefined,
        });
        expert.serve();
        this.#experts.push(expert);
      }
    }
  }

  async close(): Promise<void> {
    const drained = Promise.all(this.#experts.map((expert) => expert.drain()));
    this.#clock.advance(1000);
    await drained;
  }

  #disturbed(bus: Bus, shard: number): Bus {
    const publish: Bus["publish"] = (...message) => this.#deliver(() => bus.publish(...message));
    const subscribe = (subject: string, handler: BusHandler, options?: { readonly queue?: string }): Subscription =>
      bus.subscribe(
        subject,
        (message) => {
          if (message.payload.length === 0) {
            handler(message);
            return;
          }
          const batch = decodeActivationBatch(message.payload);
          this.largestPart = Math.max(this.largestPart, batch.part);
          if (this.#isDue(this.#fates.refused)) {
            const { passId, microBatch, layer, part, attempt } = batch;
            const error = new RallyError("overloaded", "not now", { retryAfterMs: 30 }).toWire();
            const result = { kind: "refused", passId, microBatch, layer, part, attempt, shard, expertId: "e", error };
            bus.publish(message.reply ?? "", encodedSealed(result));
          } else this.#deliver(() => handler(message));
        },
        options,
      );
    const onStatus: Bus["onStatus"] = (listener) => bus.onStatus(listener);
    return Object.assign(Object.create(bus) as Bus, { publish, subscribe, onStatus });
  }

  #deliver(deliver: () => void): void {
    if (this.#isDue(this.#fates.lost)) return;
    deliver();
    if (this.#isDue(this.#fates.repeated)) deliver();
  }

  #isDue(percent: number): boolean {
    this.#state = (this.#state * 48_271) % 2_147_483_647;
    const isDue = this.#state % 100 < percent;
    if (isDue) this.numDisturbed++;
    return isDue;
  }
}
