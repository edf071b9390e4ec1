import net from "node:net";
import type { Clock } from "../clock.ts";
import type { NetworkFault } from "./network-fault.ts";
import { ProxyFlow } from "./proxy-flow.ts";
import type { SeededRandom } from "./seeded.ts";

interface Address {
  readonly host: string;
  readonly port: number;
}

interface Connection {
  readonly client: net.Socket;
  server: net.Socket | undefined;
  flows: ProxyFlow[];
  /** The server has forgotten it; the client does not know. */
  isHalfOpen: boolean;
}

export interface NatsProxyOptions {
  readonly clock: Clock;
  readonly random: SeededRandom;
  /** Asked for each new connection: the server may not be known yet when the proxy begins to listen. */
  readonly upstream: () => Address | undefined;
}

/**
 * A TCP proxy between one NATS client and its server that does to the traffic what networks do. It knows where messages begin
 * and end, so that one can be lost or changed without breaking the protocol around it.
 */
export class NatsProxy {
  readonly #options: NatsProxyOptions;
  readonly #server = net.createServer({ noDelay: true }, (socket) => this.#accept(socket));
  readonly #connections = new Set<Connection>();
  readonly #faults = new Set<NetworkFault>();
  #port = 0;

  private constructor(options: NatsProxyOptions) {
    this.#options = options;
  }

  static async listen(options: NatsProxyOptions): Promise<NatsProxy> {
    const proxy = new NatsProxy(options);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once("error", reject);
      proxy.#server.listen(0, "127.0.0.1", () => resolve());
    });
    proxy.#port = (proxy.#server.address() as net.AddressInfo).port;
    return proxy;
  }

  get port(): number {
    return this.#port;
  }

  get numConnections(): number {
    return this.#connections.size;
  }

  /** Begins a fault; the function ends it. Several may be in force at once. */
  inject(fault: NetworkFault): () => void {
    this.#faults.add(fault);
    if (fault.kind === "half-open") for (const connection of this.#connections) this.#forget(connection);
    this.#refresh();
    return () => {
      if (!this.#faults.delete(fault)) return;
      if (fault.kind === "half-open") {
        // Whoever still speaks on such a connection is told at last that it is none.
        for (const connection of this.#connections) if (connection.isHalfOpen) connection.client.resetAndDestroy();
      }
      this.#refresh();
    };
  }

  /** Resets every connection. */
  disconnect(): void {
    for (const { client } of this.#connections) client.resetAndDestroy();
  }

  async close(): Promise<void> {
    for (const { client } of this.#connections) client.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #refresh(): void {
    for (const connection of this.#connections) {
      if (connection.server === undefined && !connection.isHalfOpen) this.#connect(connection);
      for (const flow of connection.flows) flow.refresh();
    }
  }

  #accept(client: net.Socket): void {
    const connection: Connection = { client, server: undefined, flows: [], isHalfOpen: false };
    this.#connections.add(connection);
    client.on("error", () => undefined);
    client.on("close", () => {
      this.#connections.delete(connection);
      for (const flow of connection.flows) flow.close();
      connection.server?.destroy();
    });
    client.pause();
    this.#connect(connection);
  }

  #connect(connection: Connection): void {
    // Through a partition nobody connects; it is tried again when the faults change.
    for (const { kind } of this.#faults) if (kind === "partition") return;
    const { client } = connection;
    const upstream = this.#options.upstream();
    if (upstream === undefined) return void client.resetAndDestroy();
    const server = net.connect({ ...upstream, noDelay: true });
    connection.server = server;
    server.on("error", () => undefined);
    server.on("close", () => {
      if (!connection.isHalfOpen) client.destroy();
    });
    const { clock, random } = this.#options;
    const common = { clock, random, faults: () => this.#faults };
    connection.flows = [
      new ProxyFlow({ ...common, direction: "to-server", from: client, to: server }),
      new ProxyFlow({ ...common, direction: "from-server", from: server, to: client }),
    ];
    this.#refreshFlows(connection);
  }

  #refreshFlows({ client, flows }: Connection): void {
    client.resume();
    for (const flow of flows) flow.refresh();
  }

  #forget(connection: Connection): void {
    connection.isHalfOpen = true;
    for (const flow of connection.flows) flow.close();
    connection.flows = [];
    connection.server?.destroy();
    // What is said is swallowed.
    connection.client.removeAllListeners("data");
    connection.client.resume();
  }
}
