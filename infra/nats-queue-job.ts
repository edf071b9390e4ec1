import { setTimeout as sleep } from "node:timers/promises";
import type { Job } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { ID_HEADER, isIntact } from "./nats-checksum.ts";
import { nanos, parseDelivery, type JetStream } from "./nats-jetstream.ts";
import type { NatsMessage } from "./nats-link.ts";
import { originalId } from "./nats-store-whole.ts";

const DONE_RETRY_MS = 200;

/** A job as a pull brings it. */
export interface Arrival {
  readonly reply: string;
  readonly seq: number;
  readonly delivery: number;
  readonly id: string | undefined;
  readonly payload: Uint8Array;
  readonly isIntact: boolean;
}

/** Undefined for the server's own words about a pull. */
export function arrivalOf(message: NatsMessage): Arrival | undefined {
  const { reply, payload } = message;
  const delivery = parseDelivery(reply);
  if (delivery === undefined || reply === undefined) return undefined;
  const id = message.header(ID_HEADER);
  return {
    reply,
    seq: delivery.streamSeq,
    delivery: delivery.deliveries,
    id: id === undefined ? undefined : originalId(id),
    payload: new Uint8Array(payload),
    isIntact: isIntact(message),
  };
}

/** One delivery of a job, acknowledged by its own subject. */
export class NatsJob implements Job {
  readonly id: string | undefined;
  readonly payload: Uint8Array;
  readonly delivery: number;
  readonly #jetStream: JetStream;
  readonly #reply: string;
  readonly #ackWaitMs: number;

  constructor(jetStream: JetStream, { reply, id, payload, delivery }: Arrival, ackWaitMs: number) {
    this.#jetStream = jetStream;
    this.#reply = reply;
    this.id = id;
    this.payload = payload;
    this.delivery = delivery;
    this.#ackWaitMs = ackWaitMs;
  }

  working(): void {
    this.#jetStream.link.publish(this.#reply, Buffer.from("+WPI"));
  }

  release(delayMs = 0): void {
    const word = delayMs > 0 ? `-NAK ${JSON.stringify({ delay: nanos(delayMs) })}` : "-NAK";
    this.#jetStream.link.publish(this.#reply, Buffer.from(word));
  }

  /** Repeated over an outage for as long as the job cannot have been given to another worker. */
  async done(): Promise<void> {
    const deadline = performance.now() + this.#ackWaitMs;
    for (;;) {
      try {
        await this.#jetStream.acknowledge(this.#reply);
        return;
      } catch (error) {
        const { code } = RallyError.from(error);
        if (code === "closed" || performance.now() + DONE_RETRY_MS > deadline) throw error;
        await sleep(DONE_RETRY_MS);
      }
    }
  }
}
