import type { ScratchMemory } from "./scratch-memory.ts";

/**
 * The bus: subjects, queue groups and replies as NATS has them. Implementations: `memory-bus` (tests, one process) and
 * `nats-bus`. One contract suite, `test/infra/bus.contract.ts`, holds both to this page.
 */
export interface BusMessage {
  readonly subject: string;
  /** Valid only until the handler returns: it may be a view of the socket's buffer. Copy what you keep. */
  readonly payload: Uint8Array;
  readonly reply: string | undefined;
  /** Set on the empty message that comes back on `reply` at once when nobody listens on the published subject. */
  readonly noResponders: boolean;
  /** The payload came through this host's memory alone, as it was written. Any other may have been damaged on its way. */
  readonly isShared?: true;
}

export type BusHandler = (message: BusMessage) => void;

export interface Subscription {
  unsubscribe(): void;
}

export interface PublishOptions {
  /**
   * At most one subscriber gets this, and it is one of ours: between processes of one host a large payload may then go
   * through shared memory, with the message as the doorbell.
   */
  readonly single?: boolean;
  /** The payload is only lent: it is the caller's again when `publish` returns. */
  readonly borrowed?: boolean;
  /**
   * Called with the payload, before `publish` returns or later, if it goes where it may be damaged: may write into it, a checksum for
   * instance. Not called for one that goes through shared memory.
   */
  readonly seal?: (payload: Uint8Array) => void;
}

export type BusStatus = "connected" | "disconnected" | "closed";

export interface Bus {
  /** Largest payload in bytes that `publish` takes. */
  readonly maxPayload: number;

  /**
   * Sends at most once, in order per publisher. Takes over `payload`, unless it is `borrowed`: the caller must not write to it
   * afterwards. Throws RallyError `payload-too-large` above `maxPayload`, `closed` after `close`.
   */
  publish(subject: string, payload: Uint8Array, reply?: string, options?: PublishOptions): void;

  /**
   * Memory of the caller's own, to make in it payloads that are published as `borrowed`. A large one reaches other processes of this
   * host without being copied if it is also `single`, however many subjects it goes to.
   */
  scratch(): ScratchMemory;

  /** Handlers run in arrival order. Within a `queue`, one member gets each message. `*` and `>` are wildcards. */
  subscribe(subject: string, handler: BusHandler, options?: { readonly queue?: string }): Subscription;

  /** One answer, its payload copied. RallyError `no-responders` at once when nobody listens, `timeout` after `timeoutMs`. */
  request(subject: string, payload: Uint8Array, timeoutMs: number): Promise<BusMessage>;

  onStatus(listener: (status: BusStatus) => void): Subscription;

  /** Resolves when the server has seen everything published and subscribed so far. */
  flush(): Promise<void>;

  /** Sends what is waiting, then closes. Safe to call twice. */
  close(): Promise<void>;
}
