import type { Bus, BusHandler, BusMessage, BusStatus, PublishOptions, Subscription } from "./bus.ts";
import { RallyError } from "./errors.ts";
import type { NatsLink } from "./nats-link.ts";
import { NatsRequests } from "./nats-requests.ts";
import { SharedPayloads } from "./nats-shared.ts";
import type { ScratchMemory } from "./scratch-memory.ts";
import { checkPattern, checkSubject } from "./subject.ts";

/** The bus over a NATS connection. What is published while that is broken is dropped, as it would be by the network. */
export class NatsBus implements Bus {
  readonly #link: NatsLink;
  readonly #requests: NatsRequests;
  readonly #shared: SharedPayloads;
  /** Subjects that were found to be well-formed: there are few, and they are used for every message. */
  readonly #checked = new Set<string>();
  #closed = false;

  /**
   * `shared`: whether large payloads for one receiver may go through shared memory; "copied": as where the native addon is not built,
   * which lets both sides map it.
   */
  constructor(link: NatsLink, { shared = false }: { readonly shared?: boolean | "copied" } = {}) {
    this.#link = link;
    this.#requests = new NatsRequests(link);
    this.#shared = SharedPayloads.open(link, shared);
  }

  get maxPayload(): number {
    return this.#link.maxPayload;
  }

  publish(subject: string, payload: Uint8Array, reply?: string, options: PublishOptions = {}): void {
    this.#checkOpen();
    this.#checkSubject(subject);
    if (reply !== undefined) this.#checkSubject(reply);
    if (payload.length > this.#link.maxPayload) {
      throw new RallyError("payload-too-large", `payload of ${payload.length} bytes, limit ${this.#link.maxPayload}`, {
        field: "payload",
        found: payload.length,
        limit: this.#link.maxPayload,
      });
    }
    if (options.single === true && this.#shared.publish(subject, payload, reply, options.seal)) return;
    options.seal?.(payload);
    this.#link.publish(subject, options.borrowed === true ? new Uint8Array(payload) : payload, reply);
  }

  scratch(): ScratchMemory {
    return this.#shared.scratch();
  }

  subscribe(subject: string, handler: BusHandler, options: { readonly queue?: string } = {}): Subscription {
    this.#checkOpen();
    checkPattern(subject);
    if (options.queue !== undefined) checkSubject(options.queue);
    return this.#link.subscribe(subject, this.#shared.receiver(handler), options.queue);
  }

  async request(subject: string, payload: Uint8Array, timeoutMs: number): Promise<BusMessage> {
    this.#checkOpen();
    this.#checkSubject(subject);
    return await this.#requests.send(subject, payload, timeoutMs);
  }

  onStatus(listener: (status: BusStatus) => void): Subscription {
    return this.#link.onStatus(listener);
  }

  async flush(): Promise<void> {
    this.#checkOpen();
    await this.#link.flush();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#requests.close();
    await this.#link.close();
    this.#shared.close();
  }

  #checkSubject(subject: string): void {
    if (this.#checked.has(subject)) return;
    checkSubject(subject);
    if (this.#checked.size >= 1000) this.#checked.clear();
    this.#checked.add(subject);
  }

  #checkOpen(): void {
    if (this.#closed) throw new RallyError("closed", "the bus is closed");
  }
}
