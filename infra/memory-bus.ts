import type { Bus, BusHandler, BusMessage, BusStatus, PublishOptions, Subscription } from "./bus.ts";
import { systemClock, type Clock } from "./clock.ts";
import { RallyError } from "./errors.ts";
import { HeapScratch, type ScratchMemory } from "./scratch-memory.ts";
import { checkPattern, checkSubject, matchesSubject } from "./subject.ts";

export interface MemoryBusOptions {
  readonly clock?: Clock;
  readonly maxPayload?: number;
}

interface Listener {
  readonly owner: MemoryBus;
  readonly pattern: string;
  readonly queue: string | undefined;
  readonly handler: BusHandler;
  active: boolean;
}

const EMPTY = new Uint8Array(0);
/** What a payload becomes when its handler has returned: a socket's buffer would be overwritten just so. */
const STALE_BYTE = 0xdb;

/** Routes between all connections of one memory bus. Deliveries are queued and run outside `publish`, in order. */
class Router {
  readonly #listeners = new Set<Listener>();
  #queued: (() => void)[] = [];
  #scheduled = false;
  #turn = 0;

  add(listener: Listener): void {
    this.#listeners.add(listener);
  }

  remove(listener: Listener): void {
    listener.active = false;
    this.#listeners.delete(listener);
  }

  publish(sender: MemoryBus, subject: string, payload: Uint8Array, reply: string | undefined): void {
    const receivers = this.#receivers(subject);
    for (const listener of receivers) this.#deliver(listener, { subject, payload, reply, noResponders: false });
    if (receivers.length > 0 || reply === undefined) return;
    for (const listener of this.#listeners) {
      if (listener.owner !== sender || listener.queue !== undefined || !matchesSubject(listener.pattern, reply))
        continue;
      this.#deliver(listener, { subject: reply, payload: EMPTY, reply: undefined, noResponders: true });
      return;
    }
  }

  enqueue(work: () => void): void {
    this.#queued.push(work);
    this.#schedule();
  }

  #receivers(subject: string): Listener[] {
    const receivers: Listener[] = [];
    const queues = new Map<string, Listener[]>();
    for (const listener of this.#listeners) {
      if (!listener.owner.connected || !matchesSubject(listener.pattern, subject)) continue;
      if (listener.queue === undefined) {
        receivers.push(listener);
        continue;
      }
      const key = `${listener.pattern} ${listener.queue}`;
      const members = queues.get(key);
      if (members === undefined) queues.set(key, [listener]);
      else members.push(listener);
    }
    for (const members of queues.values()) {
      const chosen = members[this.#turn++ % members.length];
      if (chosen !== undefined) receivers.push(chosen);
    }
    return receivers;
  }

  #deliver(listener: Listener, message: BusMessage): void {
    this.enqueue(() => {
      if (!listener.active || !listener.owner.connected) return;
      const payload = new Uint8Array(message.payload);
      try {
        listener.handler({ ...message, payload });
      } finally {
        payload.fill(STALE_BYTE);
      }
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.#queued.length === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      const batch = this.#queued;
      this.#queued = [];
      let done = 0;
      try {
        for (const work of batch) {
          done++;
          work();
        }
      } finally {
        // A handler that throws takes the process down, but not the messages behind it out of order.
        this.#queued = [...batch.slice(done), ...this.#queued];
        this.#schedule();
      }
    });
  }
}

/** A bus within one process; `connect` gives further connections to the same subjects, one per actor. */
export class MemoryBus implements Bus {
  readonly maxPayload: number;
  readonly #clock: Clock;
  readonly #router: Router;
  readonly #listeners = new Set<Listener>();
  readonly #statusListeners = new Set<(status: BusStatus) => void>();
  readonly #requests = new Set<(error: RallyError) => void>();
  #nextInbox = 0;
  #status: BusStatus = "connected";

  constructor(options: MemoryBusOptions = {}, router: Router = new Router()) {
    this.#clock = options.clock ?? systemClock;
    this.maxPayload = options.maxPayload ?? 1024 * 1024;
    this.#router = router;
  }

  connect(): MemoryBus {
    return new MemoryBus({ clock: this.#clock, maxPayload: this.maxPayload }, this.#router);
  }

  get connected(): boolean {
    return this.#status === "connected";
  }

  /** As if the server were gone: nothing comes or goes until `reconnect`. */
  disconnect(): void {
    if (this.#status !== "connected") return;
    this.#setStatus("disconnected");
    this.#failRequests(new RallyError("server-unavailable", "the connection broke before the answer came"));
  }

  reconnect(): void {
    if (this.#status === "disconnected") this.#setStatus("connected");
  }

  publish(subject: string, payload: Uint8Array, reply?: string, { borrowed = false, seal }: PublishOptions = {}): void {
    this.#checkOpen();
    checkSubject(subject);
    if (payload.length > this.maxPayload) {
      throw new RallyError("payload-too-large", `payload of ${payload.length} bytes, limit ${this.maxPayload}`, {
        field: "payload",
        found: payload.length,
        limit: this.maxPayload,
      });
    }
    if (!this.connected) return;
    seal?.(payload);
    this.#router.publish(this, subject, borrowed ? new Uint8Array(payload) : payload, reply);
  }

  scratch(): ScratchMemory {
    return new HeapScratch();
  }

  subscribe(subject: string, handler: BusHandler, options: { readonly queue?: string } = {}): Subscription {
    this.#checkOpen();
    checkPattern(subject);
    const listener: Listener = { owner: this, pattern: subject, queue: options.queue, handler, active: true };
    this.#listeners.add(listener);
    this.#router.add(listener);
    return {
      unsubscribe: () => {
        this.#listeners.delete(listener);
        this.#router.remove(listener);
      },
    };
  }

  async request(subject: string, payload: Uint8Array, timeoutMs: number): Promise<BusMessage> {
    this.#checkOpen();
    if (!this.connected) throw new RallyError("server-unavailable", "not connected", { subject });
    const inbox = `_INBOX.${this.#nextInbox++}.${Math.floor(this.#clock.elapsed())}`;
    return await new Promise<BusMessage>((resolve, reject) => {
      const settle = (): void => {
        timer.cancel();
        subscription.unsubscribe();
        this.#requests.delete(fail);
      };
      const fail = (error: RallyError): void => {
        settle();
        reject(error);
      };
      const subscription = this.subscribe(inbox, (message) => {
        settle();
        if (message.noResponders) reject(new RallyError("no-responders", `nobody listens on ${subject}`, { subject }));
        else resolve({ ...message, payload: new Uint8Array(message.payload) });
      });
      const timer = this.#clock.after(timeoutMs, () =>
        fail(new RallyError("timeout", `no answer on ${subject} within ${timeoutMs} ms`, { subject, timeoutMs })),
      );
      this.#requests.add(fail);
      try {
        this.publish(subject, payload, inbox);
      } catch (error) {
        fail(RallyError.from(error));
      }
    });
  }

  onStatus(listener: (status: BusStatus) => void): Subscription {
    this.#statusListeners.add(listener);
    return { unsubscribe: () => void this.#statusListeners.delete(listener) };
  }

  async flush(): Promise<void> {
    this.#checkOpen();
    await new Promise<void>((resolve) => this.#router.enqueue(resolve));
  }

  async close(): Promise<void> {
    if (this.#status === "closed") return;
    this.#setStatus("closed");
    for (const listener of this.#listeners) this.#router.remove(listener);
    this.#listeners.clear();
    this.#failRequests(new RallyError("closed", "the bus was closed before the answer came"));
    this.#statusListeners.clear();
  }

  #checkOpen(): void {
    if (this.#status === "closed") throw new RallyError("closed", "the bus is closed");
  }

  #failRequests(error: RallyError): void {
    for (const fail of this.#requests) fail(error);
  }

  #setStatus(status: BusStatus): void {
    this.#status = status;
    for (const listener of this.#statusListeners) listener(status);
  }
}
