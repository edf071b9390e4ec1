import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import { decodeOffer } from "../protocol/decode.ts";
import type { Offer, OfferAnswer } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";
import { tooLate } from "./too-late.ts";

export interface OffersOptions {
  readonly bus: Bus;
  readonly subjects: Subjects;
  readonly clock: Clock;
  /** How long one with so many tokens would take that came now; 0 if there is nothing to fear. Milliseconds. */
  readonly etaMs: (maxTokens: number) => number;
  /** One was told to come. */
  readonly promised: (maxTokens: number) => void;
}

/** One actor of a deployment answers. */
const QUEUE = "attention";

/**
 * Tells clients that ask beforehand whether a request would be done by its deadline. What is refused here has cost a message each way;
 * a request that is refused later has been written to the queue and has a log.
 */
export class Offers {
  readonly #options: OffersOptions;
  readonly #subscription: Subscription;
  #numBad = 0;

  constructor(options: OffersOptions) {
    this.#options = options;
    const { bus, subjects } = options;
    this.#subscription = bus.subscribe(subjects.offer, (message) => this.#answer(message), { queue: QUEUE });
  }

  /** Messages that were none. */
  get numBad(): number {
    return this.#numBad;
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  #answer({ payload, reply }: BusMessage): void {
    const error = this.#refusal(payload);
    if (reply === undefined) return;
    const answer: OfferAnswer = { kind: "offered", ...(error !== undefined && { error: error.toWire() }) };
    this.#options.bus.publish(reply, encode(answer));
  }

  #refusal(payload: Uint8Array): RallyError | undefined {
    const { clock, etaMs, promised } = this.#options;
    let offer: Offer;
    try {
      offer = decodeOffer(payload);
    } catch (thrown) {
      this.#numBad++;
      return RallyError.from(thrown);
    }
    const [neededMs, leftMs] = [etaMs(offer.maxTokens), offer.deadline - clock.now()];
    if (neededMs > leftMs && neededMs > 0) return tooLate(neededMs, leftMs);
    promised(offer.maxTokens);
    return undefined;
  }
}
