import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import { encode } from "../../infra/codec.ts";
import type { ExpertNotice } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";

export interface PresenceOptions {
  readonly bus: Bus;
  readonly subjects: Subjects;
  readonly expertId: string;
  readonly shard: number;
}

/** Tells attention actors that this expert actor is there: once, when they ask, after an outage, and when it leaves. */
export class Presence {
  readonly #options: PresenceOptions;
  readonly #subscriptions: readonly Subscription[];
  #state: ExpertNotice["state"] | undefined;

  constructor(options: PresenceOptions) {
    this.#options = options;
    const { bus, subjects, expertId } = options;
    const answer = ({ reply }: BusMessage) => this.#say(reply);
    this.#subscriptions = [
      bus.subscribe(subjects.probe(), answer),
      bus.subscribe(subjects.probe(expertId), answer),
      bus.onStatus((status) => {
        if (status === "connected") this.#say();
      }),
    ];
  }

  /** Until it serves, nobody is told anything. */
  serve(): void {
    if (this.#state !== undefined) return;
    this.#state = "serving";
    this.#say();
  }

  leave(): void {
    this.#state = "leaving";
    this.#say();
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  #say(to?: string): void {
    if (this.#state === undefined) return;
    const { bus, subjects, expertId, shard } = this.#options;
    const notice: ExpertNotice = { kind: "expert", expertId, shard, state: this.#state };
    try {
      bus.publish(to ?? subjects.experts, encode(notice));
    } catch {
      // Closed, or a reply subject that nobody may publish on: whoever asked asks again.
    }
  }
}
