import { readFileSync } from "node:fs";
import {
  connect,
  credsAuthenticator,
  Events,
  headers as newHeaders,
  type ConnectionOptions,
  type Msg,
  type NatsConnection,
} from "nats";
import type { BusStatus, Subscription } from "./bus.ts";
import { RallyError } from "./errors.ts";
import type { NatsHeaders, NatsLink, NatsMessage } from "./nats-link.ts";
import { serverAddresses, type NatsSettings } from "./nats-settings.ts";

const CONNECT_MS = 5000;
const RECONNECT_MS = 200;
/** Two unanswered pings and the server counts as gone, even with its TCP connection open. */
const PING_MS = 2500;

/** A link over the `nats` package. Callbacks rather than iterators: no promise per message. */
export async function openClientLink(settings: NatsSettings, name: string): Promise<NatsLink> {
  try {
    return new ClientLink(await connect(connectionOptions(settings, name)));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const url = settings.url.replaceAll(/[^,/@]*@/g, "");
    throw new RallyError(
      "server-unavailable",
      `no connection to the NATS server at ${url}: ${reason}`,
      { url },
      { cause: error },
    );
  }
}

function connectionOptions(settings: NatsSettings, name: string): ConnectionOptions {
  const { tlsCaFile, tlsCertFile, tlsKeyFile, credsFile } = settings;
  const addresses = serverAddresses(settings);
  const [first] = addresses;
  const usesTls = tlsCaFile !== undefined || tlsCertFile !== undefined || addresses.some(({ tls }) => tls);
  return {
    name,
    servers: addresses.map(({ host, port }) => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`)),
    ...(first?.user !== undefined && { user: first.user }),
    ...(first?.password !== undefined && { pass: first.password }),
    ...(credsFile !== undefined && { authenticator: credsAuthenticator(readFileSync(credsFile)) }),
    ...(usesTls && {
      tls: {
        ...(tlsCaFile !== undefined && { caFile: tlsCaFile }),
        ...(tlsCertFile !== undefined && { certFile: tlsCertFile }),
        ...(tlsKeyFile !== undefined && { keyFile: tlsKeyFile }),
      },
    }),
    timeout: CONNECT_MS,
    maxReconnectAttempts: -1,
    reconnectDelayHandler: () => RECONNECT_MS,
    ignoreAuthErrorAbort: true,
    pingInterval: PING_MS,
    maxPingOut: 2,
    noAsyncTraces: true,
  };
}

class ClientLink implements NatsLink {
  readonly #connection: NatsConnection;
  readonly #listeners = new Set<(status: BusStatus) => void>();
  #status: BusStatus = "connected";
  #maxPayload: number;
  #serverVersion: string;

  constructor(connection: NatsConnection) {
    this.#connection = connection;
    this.#maxPayload = connection.info?.max_payload ?? 0;
    this.#serverVersion = connection.info?.version ?? "unknown";
    void this.#watch();
    void connection.closed().then(() => this.#setStatus("closed"));
  }

  get serverVersion(): string {
    return this.#serverVersion;
  }

  get maxPayload(): number {
    return this.#maxPayload;
  }

  get connected(): boolean {
    return this.#status === "connected";
  }

  publish(subject: string, payload: Uint8Array, reply?: string, headers?: NatsHeaders): void {
    // The client would keep it, without a limit.
    if (!this.connected) return;
    if (headers === undefined) {
      this.#connection.publish(subject, payload, reply === undefined ? {} : { reply });
      return;
    }
    const block = newHeaders();
    for (const [name, value] of headers) block.set(name, value);
    this.#connection.publish(subject, payload, { headers: block, ...(reply !== undefined && { reply }) });
  }

  subscribe(subject: string, handler: (message: NatsMessage) => void, queue?: string): Subscription {
    const subscription = this.#connection.subscribe(subject, {
      ...(queue !== undefined && { queue }),
      callback: (error, message) => {
        if (error === null) handler(adapt(message));
      },
    });
    return {
      unsubscribe: () => {
        if (!this.#connection.isClosed()) subscription.unsubscribe();
      },
    };
  }

  onStatus(listener: (status: BusStatus) => void): Subscription {
    this.#listeners.add(listener);
    return { unsubscribe: () => void this.#listeners.delete(listener) };
  }

  async flush(): Promise<void> {
    if (!this.connected) throw new RallyError("server-unavailable", "the connection to the NATS server is broken");
    try {
      await this.#connection.flush();
    } catch (error) {
      throw RallyError.from(error, "server-unavailable");
    }
  }

  async close(): Promise<void> {
    if (this.connected) await this.flush().catch(() => {});
    await this.#connection.close();
    this.#setStatus("closed");
  }

  async #watch(): Promise<void> {
    for await (const { type } of this.#connection.status()) {
      if (type === Events.Disconnect) this.#setStatus("disconnected");
      if (type !== Events.Reconnect) continue;
      this.#maxPayload = this.#connection.info?.max_payload ?? this.#maxPayload;
      this.#serverVersion = this.#connection.info?.version ?? this.#serverVersion;
      this.#setStatus("connected");
    }
  }

  #setStatus(status: BusStatus): void {
    if (this.#status === status || this.#status === "closed") return;
    this.#status = status;
    for (const listener of this.#listeners) listener(status);
  }
}

function adapt(message: Msg): NatsMessage {
  const { data, headers } = message;
  const status = headers?.code ?? 0;
  return {
    subject: message.subject,
    // Not a Buffer, whose `slice` would not copy.
    payload: new Uint8Array(data.buffer, data.byteOffset, data.length),
    reply: message.reply === undefined || message.reply === "" ? undefined : message.reply,
    status,
    noResponders: status === 503 && data.length === 0,
    header: (name) => (headers?.has(name) === true ? headers.get(name) : undefined),
  };
}
