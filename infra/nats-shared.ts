import type { BusHandler } from "./bus.ts";
import type { NatsLink, NatsMessage } from "./nats-link.ts";
import { newInbox } from "./nats-requests.ts";
import { SharedInbox, SharedOutbox } from "./shared-memory.ts";

/** Carries a ticket; the message that has it is empty. */
const TICKET = "Rally-Shared";
/** Where to say that the ticket is of no use here. */
const RETURN = "Rally-Return";
/** Smaller ones cost the server less than the doorbell's extra steps cost us. */
const SHARE_FROM = 8 * 1024;
const EMPTY = new Uint8Array(0);

interface Sent {
  readonly subject: string;
  readonly reply: string | undefined;
}

/**
 * Payloads through shared memory, the NATS message as the doorbell. A receiver that cannot reach the memory (another host,
 * another container) sends the ticket back; then the payload goes as it is, and so does everything on that subject from then on.
 */
export class SharedPayloads {
  readonly #link: NatsLink;
  readonly #outbox: SharedOutbox<Sent>;
  readonly #inbox = new SharedInbox();
  readonly #returns = newInbox();
  readonly #notShared = new Set<string>();

  private constructor(link: NatsLink, outbox: SharedOutbox<Sent>) {
    this.#link = link;
    this.#outbox = outbox;
    link.subscribe(this.#returns, ({ payload }) => this.#returned(Buffer.from(payload).toString()));
  }

  static open(link: NatsLink): SharedPayloads | undefined {
    const outbox = SharedOutbox.open<Sent>();
    return outbox && new SharedPayloads(link, outbox);
  }

  /** False if it has to be sent the ordinary way. */
  publish(subject: string, payload: Uint8Array, reply: string | undefined): boolean {
    if (payload.length < SHARE_FROM || this.#notShared.has(subject) || !this.#link.connected) return false;
    const ticket = this.#outbox.put(payload, { subject, reply });
    if (ticket === undefined) return false;
    this.#link.publish(subject, EMPTY, reply, [
      [TICKET, ticket],
      [RETURN, this.#returns],
    ]);
    return true;
  }

  receiver(handler: BusHandler): (message: NatsMessage) => void {
    return (message) => {
      const ticket = message.header(TICKET);
      if (ticket === undefined) {
        handler(message);
        return;
      }
      const payload = this.#inbox.take(ticket, this.#link.maxPayload);
      if (payload === "gone") return;
      if (payload === "unreachable") {
        const returns = message.header(RETURN);
        if (returns !== undefined) this.#link.publish(returns, Buffer.from(ticket));
        return;
      }
      const { subject, reply } = message;
      handler({ subject, payload, reply, noResponders: false });
    };
  }

  close(): void {
    this.#inbox.close();
    this.#outbox.close();
  }

  #returned(ticket: string): void {
    const found = this.#outbox.takeBack(ticket);
    if (found === undefined) return;
    const { subject, reply } = found.about;
    this.#notShared.add(subject);
    this.#link.publish(subject, found.payload, reply);
  }
}
