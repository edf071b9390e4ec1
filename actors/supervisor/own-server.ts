import type { Bus } from "../../infra/bus.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { Placements } from "../protocol/placement.ts";
import { others } from "./membership.ts";
import type { RoleEvent } from "./role-set.ts";
import { StoreWatch } from "./store-watch.ts";
import { SupervisedServer } from "./supervised-server.ts";
import type { SupervisorPorts } from "./supervisor-ports.ts";
import type { Topology } from "./topology.ts";
import { pinnedServer } from "./turns.ts";

export interface OwnServerOptions {
  readonly ports: SupervisorPorts;
  readonly topology: Topology;
  readonly storeDir: string | undefined;
  readonly onEvent: (event: RoleEvent) => void;
}

const SOURCE = "nats-server";
const ALONE_EVERY_MS = 500;

/** The nats-server that a supervisor has started itself, with the deployment's store. */
export class OwnServer {
  readonly #options: OwnServerOptions;
  readonly #server: SupervisedServer;
  #watch: StoreWatch | undefined;

  constructor(options: OwnServerOptions) {
    this.#options = options;
    const { ports, topology, storeDir, onEvent } = options;
    const { startServer, clock, folder, kill } = ports;
    const { turns } = topology;
    this.#server = new SupervisedServer({
      startServer: turns === undefined ? startServer : pinnedServer(startServer, turns),
      clock,
      folder,
      kill,
      storeDir,
      progress: (text) => onEvent({ kind: "progress", source: SOURCE, text }),
      warning: (text) => onEvent({ kind: "warning", source: SOURCE, text }),
    });
  }

  async start(): Promise<{ readonly settings: NatsSettings; readonly source: string }> {
    const { url, source } = await this.#server.start();
    return { settings: { url }, source };
  }

  /** Starts it anew when its store does not answer any more. */
  watch(placements: Placements): void {
    const server = this.#server;
    this.#watch = new StoreWatch({
      clock: this.#options.ports.clock,
      ask: () => placements.read("current"),
      generation: () => server.numStarts,
      silent: (why) => server.replace(why),
    });
  }

  unwatch(): void {
    this.#watch?.stop();
  }

  /** Whoever joined needs the server, which ends with this process. */
  async untilAlone(bus: Bus): Promise<void> {
    const { ports, topology, onEvent } = this.#options;
    for (let isTold = false; ; isTold = true) {
      const left = await others(bus, ports.clock, topology.deployment);
      if (left.length === 0) return;
      const text = `${left.length} actors that joined still use this nats-server: it stays until they have left, too`;
      if (!isTold) onEvent({ kind: "warning", source: "supervisor", text });
      await new Promise<void>((resolve) => ports.clock.after(ALONE_EVERY_MS, resolve));
    }
  }

  stop(): Promise<void> {
    return this.#server.stop();
  }
}
