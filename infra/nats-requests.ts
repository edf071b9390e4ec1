import { randomBytes } from "node:crypto";
import type { Subscription } from "./bus.ts";
import { RallyError } from "./errors.ts";
import type { NatsHeaders, NatsLink, NatsMessage } from "./nats-link.ts";

interface Pending {
  readonly subject: string;
  readonly resolve: (message: NatsMessage) => void;
  readonly reject: (error: RallyError) => void;
  readonly timer: NodeJS.Timeout;
}

export function newInbox(): string {
  return `_INBOX.${randomBytes(12).toString("hex")}`;
}

/** Requests over one inbox. One that is under way when the connection breaks fails at once, its outcome unknown. */
export class NatsRequests {
  readonly #link: NatsLink;
  readonly #inbox = newInbox();
  readonly #pending = new Map<string, Pending>();
  readonly #subscriptions: readonly Subscription[];
  #next = 0;

  constructor(link: NatsLink) {
    this.#link = link;
    this.#subscriptions = [
      link.subscribe(`${this.#inbox}.*`, (message) => this.#receive(message)),
      link.onStatus((status) => {
        if (status === "disconnected") this.#failAll(brokenConnection());
        if (status === "closed")
          this.#failAll(new RallyError("closed", "the connection was closed before the answer came"));
      }),
    ];
  }

  /** The answer's payload is a copy. RallyError `no-responders`, `timeout`, `server-unavailable`, `closed`. */
  send(subject: string, payload: Uint8Array, timeoutMs: number, headers?: NatsHeaders): Promise<NatsMessage> {
    if (!this.#link.connected) return Promise.reject(brokenConnection());
    return new Promise<NatsMessage>((resolve, reject) => {
      const token = (this.#next++).toString(36);
      const timer = setTimeout(() => {
        this.#pending.delete(token);
        reject(new RallyError("timeout", `no answer on ${subject} within ${timeoutMs} ms`, { subject, timeoutMs }));
      }, timeoutMs);
      this.#pending.set(token, { subject, resolve, reject, timer });
      try {
        this.#link.publish(subject, payload, `${this.#inbox}.${token}`, headers);
      } catch (error) {
        clearTimeout(timer);
        this.#pending.delete(token);
        reject(RallyError.from(error));
      }
    });
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#failAll(new RallyError("closed", "the connection was closed before the answer came"));
  }

  #receive(message: NatsMessage): void {
    const token = message.subject.slice(this.#inbox.length + 1);
    const pending = this.#pending.get(token);
    if (pending === undefined) return;
    this.#pending.delete(token);
    clearTimeout(pending.timer);
    const { subject, resolve, reject } = pending;
    if (message.noResponders) reject(new RallyError("no-responders", `nobody listens on ${subject}`, { subject }));
    else resolve(copyOf(message));
  }

  #failAll(error: RallyError): void {
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const { timer, reject } of all) {
      clearTimeout(timer);
      reject(error);
    }
  }
}

function brokenConnection(): RallyError {
  return new RallyError("server-unavailable", "the connection to the NATS server is broken; it is being renewed");
}

function copyOf(message: NatsMessage): NatsMessage {
  const { subject, reply, noResponders, status } = message;
  const payload = new Uint8Array(message.payload);
  return { subject, payload, reply, noResponders, status, header: (name) => message.header(name) };
}
