/** What we need of a server's INFO. */
export interface ServerInfo {
  readonly version: string;
  readonly maxPayload: number;
  readonly tlsRequired: boolean;
}

/** Undefined if it is not a NATS server's. */
export function parseInfo(json: string): ServerInfo | undefined {
  let info: { version?: unknown; max_payload?: unknown; tls_required?: unknown };
  try {
    info = Object(JSON.parse(json));
  } catch {
    return undefined;
  }
  const { version, max_payload: maxPayload, tls_required: tlsRequired } = info;
  if (typeof version !== "string" || typeof maxPayload !== "number") return undefined;
  return { version, maxPayload, tlsRequired: tlsRequired === true };
}
