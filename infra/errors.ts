/** Every way in which Rally refuses or fails, as a closed list: programs switch on it, so a code is never renamed. */
export const ERROR_CODES = [
  "bad-request", // a field of a request is missing, unknown or out of range
  "bad-message", // bytes that are not a message of ours, or a tensor that contradicts itself
  "corrupted", // a checksum that does not fit: bytes changed on their way
  "bad-settings", // a setting, flag or environment variable
  "bad-model", // a checkpoint that is truncated, misses a tensor or has one of a wrong shape
  "unsupported-model", // an architecture or option that no family here implements
  "unknown-deployment", // a message for another deployment
  "context-exceeded", // prompt + max tokens do not fit the model's context
  "overloaded", // a bounded queue is full; fields.retryAfterMs says when to come back
  "deadline-exceeded",
  "cancelled",
  "stale-epoch", // the placement has moved on
  "stale-owner", // another attention actor owns the request now
  "no-responders", // nobody listens on a subject
  "timeout",
  "payload-too-large",
  "unknown-request",
  "session-failed", // ONNX Runtime refused a graph or a run
  "out-of-memory", // memory of the GPU, or of this machine, does not suffice
  "device-lost", // a kernel failed on the GPU: this process cannot use it any more, a new one can
  "server-unavailable", // no nats-server could be found, fetched, started or reached
  "store-unavailable", // JetStream is off, full or read-only
  "provider-unavailable", // a way to compute was asked for, and the GPU or something else that it needs is not there
  "fetch-failed", // a file could not be fetched from anywhere
  "hash-mismatch", // a file was fetched, but it is not the one that was pinned
  "no-disk-space",
  "closed", // used after close
  "internal",
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];
export type ErrorFields = Readonly<Record<string, string | number | boolean>>;

/** The shape of an error on the wire and in `--json` output. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly fields: ErrorFields;
}

/** An expected failure. `fields` names what a program may want to read: the field, the value found, the limit. */
export class RallyError extends Error {
  override readonly name = "RallyError";
  readonly code: ErrorCode;
  readonly fields: ErrorFields;

  constructor(code: ErrorCode, message: string, fields: ErrorFields = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.fields = fields;
  }

  toWire(): WireError {
    return { code: this.code, message: this.message, fields: this.fields };
  }

  static fromWire(wire: WireError): RallyError {
    return new RallyError(wire.code, wire.message, wire.fields);
  }

  /** Wraps anything thrown; a RallyError passes through unchanged. */
  static from(thrown: unknown, code: ErrorCode = "internal"): RallyError {
    if (thrown instanceof RallyError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    return new RallyError(code, message, {}, { cause: thrown });
  }
}

/** For broken invariants: a bug of ours, never a user's mistake. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`broken invariant: ${message}`);
}
