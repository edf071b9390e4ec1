import type { BusStatus, Subscription } from "./bus.ts";
import { RallyError } from "./errors.ts";
import type { NatsHeaders, NatsLink, NatsMessage } from "./nats-link.ts";
import { serverAddresses, type NatsSettings, type ServerAddress } from "./nats-settings.ts";
import { parseInfo, type ServerInfo } from "./nats-wire-info.ts";
import { WireSocket } from "./nats-wire-socket.ts";

const CONNECT_MS = 5000;
const RECONNECT_MS = [20, 50, 100, 200, 400];
/** Two unanswered pings and the server counts as gone, even with its TCP connection open. */
const PING_MS = 2500;
const CLOSE_MS = 1000;
/** With so much waiting for a slow server, what is published is dropped, as it is while there is no connection. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;

interface Interest {
  readonly subject: string;
  readonly queue: string | undefined;
  readonly handler: (message: NatsMessage) => void;
}

interface Flush {
  readonly resolve: () => void;
  readonly reject: (error: RallyError) => void;
}

/** Whether this link can speak to such a server: it knows neither TLS nor signed credentials. */
export function canUseWireLink(settings: NatsSettings): boolean {
  const { credsFile, tlsCaFile, tlsCertFile } = settings;
  const plain = credsFile === undefined && tlsCaFile === undefined && tlsCertFile === undefined;
  return plain && serverAddresses(settings).every(({ tls }) => !tls);
}

/**
 * A link over a socket of our own. Against the `nats` package it saves copies: payloads leave by one gathering write, and
 * arrive in the buffer they are handed out from.
 */
export async function openWireLink(
  settings: NatsSettings,
  name: string,
  { pingMs = PING_MS }: { readonly pingMs?: number } = {},
): Promise<NatsLink> {
  const addresses = serverAddresses(settings);
  const link = new WireLink(addresses, name, pingMs);
  const failures: string[] = [];
  for (const address of addresses) {
    try {
      await link.connect(address);
      return link;
    } catch (error) {
      failures.push(`${address.host}:${address.port}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  await link.close();
  throw new RallyError("server-unavailable", `no connection to a NATS server: ${failures.join("; ")}`, {
    url: addresses.map(({ host, port }) => `${host}:${port}`).join(","),
  });
}

class WireLink implements NatsLink {
  readonly #addresses: readonly ServerAddress[];
  readonly #name: string;
  readonly #pingMs: number;
  readonly #interests = new Map<number, Interest>();
  readonly #listeners = new Set<(status: BusStatus) => void>();
  #socket: WireSocket | undefined;
  #status: BusStatus = "disconnected";
  #info: ServerInfo = { version: "unknown", maxPayload: 0, tlsRequired: false };
  #lastSid = 0;
  /** In the order of the pings that were sent; undefined for a keep-alive. */
  #flushes: (Flush | undefined)[] = [];
  #unansweredPings = 0;
  #pingTimer: NodeJS.Timeout | undefined;
  #reconnectTimer: NodeJS.Timeout | undefined;

  constructor(addresses: readonly ServerAddress[], name: string, pingMs: number) {
    this.#addresses = addresses;
    this.#name = name;
    this.#pingMs = pingMs;
  }

  get serverVersion(): string {
    return this.#info.version;
  }

  get maxPayload(): number {
    return this.#info.maxPayload;
  }

  get connected(): boolean {
    return this.#status === "connected";
  }

  publish(subject: string, payload: Uint8Array, reply?: string, headers?: NatsHeaders): void {
    if (!this.connected || this.#socket === undefined || this.#socket.waitingBytes > MAX_WAITING_BYTES) return;
    this.#socket.publish(subject, payload, reply, headers);
  }

  subscribe(subject: string, handler: (message: NatsMessage) => void, queue?: string): Subscription {
    const sid = ++this.#lastSid;
    const interest: Interest = { subject, queue, handler };
    this.#interests.set(sid, interest);
    if (this.connected) this.#socket?.line(subscribeLine(sid, interest));
    return {
      unsubscribe: () => {
        if (this.#interests.delete(sid) && this.connected) this.#socket?.line(`UNSUB ${sid}\r\n`);
      },
    };
  }

  onStatus(listener: (status: BusStatus) => void): Subscription {
    this.#listeners.add(listener);
    return { unsubscribe: () => void this.#listeners.delete(listener) };
  }

  async flush(): Promise<void> {
    if (!this.connected) throw brokenConnection();
    await new Promise<void>((resolve, reject) => this.#ping({ resolve, reject }));
  }

  async close(): Promise<void> {
    if (this.#status === "closed") return;
    if (this.connected) {
      const seen = this.flush().catch(() => {});
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_MS)));
      await Promise.race([seen, late]);
      clearTimeout(timer);
    }
    clearTimeout(this.#reconnectTimer);
    clearInterval(this.#pingTimer);
    this.#setStatus("closed");
    this.#interests.clear();
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.end();
    socket?.destroy();
    this.#failFlushes(new RallyError("closed", "the connection is closed"));
  }

  /** Resolves when the server has accepted us and all subscriptions. */
  async connect(address: ServerAddress): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      let failure: Error | undefined;
      const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${CONNECT_MS} ms`)), CONNECT_MS);
      const socket = new WireSocket(
        { host: address.host, port: address.port },
        {
          info: (json) => {
            const isFirst = this.#socket !== socket;
            const info = parseInfo(json);
            if (info === undefined) socket.destroy(new Error("the server's INFO is not understood"));
            else if (info.tlsRequired) socket.destroy(new Error("the server requires TLS: use tls:// or NATS_CA"));
            else if (this.#status === "closed") socket.destroy();
            else {
              this.#info = info;
              if (!isFirst) return;
              this.#socket = socket;
              this.#greet(socket, address);
            }
          },
          pong: () => {
            const flush = this.#flushes.shift();
            this.#unansweredPings = 0;
            if (!this.connected && this.#socket === socket) {
              clearTimeout(timer);
              this.#connected();
              resolve();
            }
            flush?.resolve();
          },
          ping: () => socket.line("PONG\r\n"),
          message: (sid, message) => this.#interests.get(sid)?.handler(message),
          error: (text) => {
            failure = new Error(text);
          },
          invalid: (reason) => socket.destroy(new Error(reason)),
        },
        (error) => {
          clearTimeout(timer);
          reject(failure ?? error ?? new Error("the server closed the connection"));
          if (this.#socket === socket) this.#disconnected();
        },
      );
    });
  }

  #greet(socket: WireSocket, { user, password }: ServerAddress): void {
    const options = {
      verbose: false,
      pedantic: false,
      lang: "rally",
      version: "1",
      name: this.#name,
      protocol: 1,
      headers: true,
      no_responders: true,
      ...(user !== undefined && password === undefined && { auth_token: user }),
      ...(user !== undefined && password !== undefined && { user, pass: password }),
    };
    socket.line(`CONNECT ${JSON.stringify(options)}\r\n`);
    for (const [sid, interest] of this.#interests) socket.line(subscribeLine(sid, interest));
    this.#flushes = [undefined];
    socket.line("PING\r\n");
  }

  #connected(): void {
    this.#unansweredPings = 0;
    clearInterval(this.#pingTimer);
    this.#pingTimer = setInterval(() => {
      if (this.#unansweredPings >= 2) {
        this.#socket?.destroy(new Error("the server does not answer"));
        return;
      }
      this.#unansweredPings++;
      this.#ping(undefined);
    }, this.#pingMs);
    this.#pingTimer.unref();
    this.#setStatus("connected");
  }

  #disconnected(): void {
    clearInterval(this.#pingTimer);
    this.#socket = undefined;
    this.#failFlushes(brokenConnection());
    if (this.#status !== "connected") return;
    this.#setStatus("disconnected");
    this.#reconnect(0);
  }

  #reconnect(attempt: number): void {
    const address = this.#addresses[attempt % this.#addresses.length];
    if (this.#status !== "disconnected" || address === undefined) return;
    this.#reconnectTimer = setTimeout(
      () => {
        this.connect(address).catch(() => this.#reconnect(attempt + 1));
      },
      RECONNECT_MS[Math.min(attempt, RECONNECT_MS.length - 1)],
    );
  }

  #ping(flush: Flush | undefined): void {
    this.#flushes.push(flush);
    this.#socket?.line("PING\r\n");
  }

  #failFlushes(error: RallyError): void {
    const flushes = this.#flushes;
    this.#flushes = [];
    for (const flush of flushes) flush?.reject(error);
  }

  #setStatus(status: BusStatus): void {
    if (this.#status === status) return;
    this.#status = status;
    for (const listener of this.#listeners) listener(status);
  }
}

function subscribeLine(sid: number, { subject, queue }: Interest): string {
  return queue === undefined ? `SUB ${subject} ${sid}\r\n` : `SUB ${subject} ${queue} ${sid}\r\n`;
}

function brokenConnection(): RallyError {
  return new RallyError("server-unavailable", "the connection to the NATS server is broken; it is being renewed");
}
