import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import type { Clock, Timer } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { decodeExpertNotice } from "../protocol/decode.ts";
import type { ExpertNotice } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";
import type { Replica, Replicas } from "./replicas.ts";

export interface RollCallOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly attentionId: string;
  readonly replicas: Replicas;
  /** A shard has one more replica that answers. */
  readonly joined: (shard: number) => void;
  /** Nobody listens under its subject any more: what it had is lost. */
  readonly gone: (replica: Replica) => void;
  readonly badMessage: (reason: string) => void;
}

const FIRST_PROBE_MS = 50;
const LONGEST_PROBE_MS = 2_000;
const EMPTY = new Uint8Array();

/**
 * Learns which expert actors there are: from what they announce, from their answers, and by asking once at the start and
 * after an outage. Those that let an answer wait are set aside and probed, ever less often, until they are heard again; nobody
 * else is ever probed, so that a deployment without work is silent.
 */
export class RollCall {
  readonly #options: RollCallOptions;
  readonly #subscriptions: readonly Subscription[];
  readonly #probes = new Map<Replica, Timer>();

  constructor(options: RollCallOptions) {
    this.#options = options;
    const { bus, subjects, attentionId } = options;
    const receive = (message: BusMessage) => this.#receive(message);
    this.#subscriptions = [
      bus.subscribe(subjects.experts, receive),
      bus.subscribe(subjects.probed(attentionId, "*"), receive),
    ];
    this.ask();
  }

  /** Asks everybody to announce themselves. */
  ask(): void {
    this.#publish(this.#options.subjects.probe());
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    for (const timer of this.#probes.values()) timer.cancel();
    this.#probes.clear();
  }

  /** A sign of life. Undefined if the actor is none of ours, or has left. */
  heard(shard: number, id: string): Replica | undefined {
    const { replicas, joined } = this.#options;
    const known = replicas.find(shard, id);
    const replica = known ?? replicas.add(shard, id);
    if (replica === undefined) return undefined;
    if (replica.isAside) this.#stopProbing(replica);
    else if (known !== undefined) return known;
    replica.isAside = false;
    joined(shard);
    return replica;
  }

  /** It let an answer wait. */
  suspect(replica: Replica): void {
    if (replica.isAside || this.#options.replicas.find(replica.shard, replica.id) !== replica) return;
    replica.isAside = true;
    this.#probe(replica, FIRST_PROBE_MS);
  }

  /** The server says that nobody listens. An actor that lost its connection announces itself again when it has one. */
  unreachable(shard: number, id: string): void {
    const replica = this.#options.replicas.find(shard, id);
    if (replica === undefined) return;
    this.#remove(replica);
    this.#options.gone(replica);
  }

  #remove(replica: Replica): void {
    this.#stopProbing(replica);
    this.#options.replicas.remove(replica);
  }

  #probe(replica: Replica, waitMs: number): void {
    const { clock, subjects, attentionId } = this.#options;
    this.#publish(subjects.probe(replica.id), subjects.probed(attentionId, replica.id));
    const again = () => this.#probe(replica, Math.min(2 * waitMs, LONGEST_PROBE_MS));
    this.#probes.set(replica, clock.after(waitMs, again));
  }

  #stopProbing(replica: Replica): void {
    this.#probes.get(replica)?.cancel();
    this.#probes.delete(replica);
  }

  #receive(message: BusMessage): void {
    if (message.noResponders) {
      // From a probe; that nobody is there to announce themselves is no news.
      const id = message.subject.slice(message.subject.lastIndexOf(".") + 1);
      for (const replica of this.#probes.keys()) if (replica.id === id) this.unreachable(replica.shard, id);
      return;
    }
    try {
      this.#notice(decodeExpertNotice(message.payload));
    } catch (thrown) {
      this.#options.badMessage(RallyError.from(thrown).message);
    }
  }

  #notice({ shard, expertId, state }: ExpertNotice): void {
    if (state === "serving") {
      this.heard(shard, expertId);
      return;
    }
    const { replicas } = this.#options;
    replicas.leave(expertId);
    // It still answers what it has.
    const replica = replicas.find(shard, expertId);
    if (replica !== undefined) this.#remove(replica);
  }

  #publish(subject: string, reply?: string): void {
    try {
      this.#options.bus.publish(subject, EMPTY, reply);
    } catch {
      // The bus is closed: trips say so themselves.
    }
  }
}
