import type { BusMessage, BusStatus, Subscription } from "./bus.ts";

export type NatsHeaders = readonly (readonly [name: string, value: string])[];

/** As `BusMessage`: the payload is valid only until the handler returns. */
export interface NatsMessage extends BusMessage {
  /** From the header line, e.g. 503 for no responders, 100 for an idle heartbeat, 408 for an expired pull; else 0. */
  readonly status: number;
  header(name: string): string | undefined;
}

/**
 * One connection to a NATS server that comes back by itself, with its subscriptions. Implementations: `nats-wire-link` (our
 * own, for plain TCP, made for large payloads) and `nats-client-link` (the `nats` package; TLS and credentials).
 */
export interface NatsLink {
  readonly serverVersion: string;
  readonly maxPayload: number;
  readonly connected: boolean;
  /** Dropped while not connected: what waited through an outage would be stale, and would need a limit. */
  publish(subject: string, payload: Uint8Array, reply?: string, headers?: NatsHeaders): void;
  subscribe(subject: string, handler: (message: NatsMessage) => void, queue?: string): Subscription;
  onStatus(listener: (status: BusStatus) => void): Subscription;
  /** RallyError `server-unavailable` if the connection breaks before the server has answered. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** NATS/1.0[ status[ description]], then `name: value` lines. */
export function headerBlock(headers: NatsHeaders): string {
  return `NATS/1.0\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
}

export function headerStatus(block: string): number {
  return Number(/^NATS\/1\.0 +(\d{3})/.exec(block)?.[1] ?? 0);
}

export function headerValue(block: string, name: string): string | undefined {
  // As it is mostly written.
  const at = block.indexOf(`\r\n${name}:`);
  if (at !== -1)
    return block
      .slice(at + name.length + 3)
      .split("\r\n", 1)[0]
      ?.trim();
  const wanted = `${name.toLowerCase()}:`;
  const line = block.split("\r\n").find((candidate) => candidate.toLowerCase().startsWith(wanted));
  return line?.slice(wanted.length).trim();
}
