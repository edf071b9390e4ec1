import { pathToFileURL } from "node:url";
import { NatsProxy } from "../../infra/chaos/nats-proxy.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { sendSignal } from "../../infra/chaos/signals.ts";
import { type Clock, systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats, type NatsConnection } from "../../infra/nats-connect.ts";
import { type NatsSettings, serverAddresses } from "../../infra/nats-settings.ts";
import { compiledFile } from "../../infra/own-file.ts";
import { loadConfig } from "../../models/load.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { RallyClient } from "../client/rally-client.ts";
import type { RoleStats } from "../protocol/role.ts";
import { forkLauncher, type Launch } from "../supervisor/launch.ts";
import { Supervisor, type SupervisorEvent } from "../supervisor/supervisor.ts";
import type { Topology } from "../supervisor/topology.ts";
import type { ChaosTarget, DeploymentEvent } from "./chaos-target.ts";
import { ClockFolder } from "./clock-folder.ts";
import { type Fault, isIn } from "./faults.ts";
import { OwnBroker } from "./own-broker.ts";
import { CLIENT_SLOT, type TargetSlot } from "./schedule.ts";
import { targetSlots } from "./target-slots.ts";

export interface OwnDeploymentOptions {
  readonly topology: Topology;
  readonly sharedMemory: boolean;
  /** Whether proxies stand between the roles and the server; without network faults they would only cost time. */
  readonly hasProxies: boolean;
  /** Whether the roles' wall clocks can be moved. */
  readonly hasClocks: boolean;
  readonly seed: number;
  readonly progress: (text: string) => void;
  /** Added to the roles' environment. */
  readonly env?: NodeJS.ProcessEnv;
  readonly clock?: Clock;
}

const END_LIMIT_MS = 3_000;
/** A deployment started for one run: real processes, a server of its own, and a proxy before each if asked for. */
export class OwnDeployment implements ChaosTarget {
  readonly deployment: string;
  readonly slots: readonly TargetSlot[];
  readonly broker: OwnBroker;
  readonly events: DeploymentEvent[] = [];
  readonly clocks: ClockFolder | undefined;
  readonly #options: OwnDeploymentOptions;
  readonly #clock: Clock;
  readonly #supervisor: Supervisor;
  readonly #proxies = new Map<string, NatsProxy>();
  readonly #pids = new Map<string, number>();
  readonly #everyPid = new Set<number>();
  #canLimitFiles = false;
  #upstream: { readonly host: string; readonly port: number } | undefined;
  #connections: NatsConnection[] = [];
  #client: RallyClient | undefined;
  #model: ChaosTarget["model"] | undefined;

  private constructor(options: OwnDeploymentOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.deployment = options.topology.deployment;
    this.slots = targetSlots(options.topology);
    this.broker = new OwnBroker(this.#clock);
    this.clocks = options.hasClocks ? new ClockFolder() : undefined;
    this.#supervisor = new Supervisor({
      topology: options.topology,
      onEvent: (event) => this.#event(event),
      ports: { startServer: this.broker.start, launch: this.#launcher() },
    });
  }

  /** `onCreate` gets it before anything is started, to be killed if need be. */
  static async start(
    options: OwnDeploymentOptions,
    onCreate: (deployment: OwnDeployment) => void,
  ): Promise<OwnDeployment> {
    const deployment = new OwnDeployment(options);
    onCreate(deployment);
    try {
      await deployment.#start();
      return deployment;
    } catch (thrown) {
      await deployment.stop();
      throw thrown;
    }
  }

  get nats(): NatsSettings {
    return this.#supervisor.nats.settings;
  }

  get client(): RallyClient {
    return started(this.#client);
  }

  get connection(): NatsConnection {
    return started(this.#connections[0]);
  }

  get model(): ChaosTarget["model"] {
    return started(this.#model);
  }

  cannot(fault: Fault): string | undefined {
    if (fault.kind === "disk-full" && !this.#canLimitFiles) return "prlimit and env --block-signal are needed for it";
    if (fault.kind === "clock-jump" && this.clocks === undefined) return "the roles' clocks cannot be moved";
    if (isIn(fault, "network") && this.#proxies.size === 0) return "there are no proxies";
    return undefined;
  }

  pidOf(slot: string): number | undefined {
    return this.#pids.get(slot);
  }

  proxyOf(slot: string): NatsProxy | undefined {
    return this.#proxies.get(slot);
  }

  stats(): Promise<readonly RoleStats[]> {
    return this.#supervisor.stats();
  }

  async stop(): Promise<readonly number[]> {
    await this.#client?.close();
    for (const connection of this.#connections) await connection.close();
    await this.#supervisor.stop({ drain: false });
    for (const proxy of this.#proxies.values()) await proxy.close();
    await this.broker.close();
    this.clocks?.remove();
    const deadline = this.#clock.elapsed() + END_LIMIT_MS;
    while (this.#left().length > 0 && this.#clock.elapsed() < deadline) {
      await new Promise<void>((resolve) => this.#clock.after(50, resolve));
    }
    return this.#left();
  }

  kill(): void {
    this.#supervisor.kill();
  }

  #left(): number[] {
    return [...this.#everyPid].filter((pid) => sendSignal(pid, 0));
  }

  async #start(): Promise<void> {
    const { topology, hasProxies, seed } = this.#options;
    if (hasProxies) {
      for (const { name } of this.slots) {
        const random = new SeededRandom(seed, `proxy-${name}`);
        const proxy = await NatsProxy.listen({ clock: this.#clock, random, upstream: () => this.#upstream });
        this.#proxies.set(name, proxy);
      }
    }
    const [config, tokenizer] = await Promise.all([loadConfig(topology.modelDir), loadTokenizer(topology.modelDir)]);
    this.#model = { encode: (text) => tokenizer.encode(text), bosTokenId: config.bosTokenId };
    await this.#supervisor.start();
    this.#canLimitFiles = await this.broker.canLimitFiles();
    const direct = await connectNats(this.nats, { name: "rally-chaos" });
    this.#connections = [direct];
    const clientSettings = this.#settingsOf(CLIENT_SLOT, this.nats);
    const { bus, durable } = await this.#connect(clientSettings);
    this.#client = new RallyClient({ bus, durable, deployment: this.deployment });
  }

  async #connect(settings: NatsSettings): Promise<NatsConnection> {
    const connection = await connectNats(settings, { name: "rally-chaos-client" });
    this.#connections.push(connection);
    return connection;
  }

  /** Through the slot's proxy if it has one. */
  #settingsOf(slot: string, nats: NatsSettings): NatsSettings {
    this.#upstream ??= serverAddresses(nats)[0];
    const port = this.#proxies.get(slot)?.port ?? this.#upstream?.port;
    // Shared memory is for servers that are plainly of this host, which 0.0.0.0 is not.
    const host = this.#options.sharedMemory ? "127.0.0.1" : "0.0.0.0";
    return { ...nats, url: `nats://${host}:${port}` };
  }

  #launcher(): Launch {
    const clockEnv = this.clocks === undefined ? {} : movedClockEnv(this.clocks);
    const launch = forkLauncher(undefined, { ...this.#options.env, ...clockEnv });
    return (settings, handlers) => {
      const slot = settings.id.slice(0, settings.id.lastIndexOf("-"));
      const process = launch(
        { ...settings, nats: this.#settingsOf(slot, settings.nats) },
        {
          report: (report) => handlers.report(report),
          exit: (how, lastLines) => {
            this.#pids.delete(slot);
            this.#happened("down", slot, how);
            handlers.exit(how, lastLines);
          },
        },
      );
      if (process.pid !== undefined) {
        this.#pids.set(slot, process.pid);
        this.#everyPid.add(process.pid);
      }
      return process;
    };
  }

  #event(event: SupervisorEvent): void {
    switch (event.kind) {
      case "progress":
        return this.#options.progress(`${event.source}: ${event.text}`);
      case "warning":
        return this.#happened("warning", event.source, event.text);
      case "ready":
        return this.#happened("ready", event.source, "ready");
      case "failed":
        return this.#happened("failed", event.source, event.error.message);
    }
  }

  #happened(kind: DeploymentEvent["kind"], source: string, text: string): void {
    this.events.push({ atMs: this.#clock.elapsed(), kind, source, text });
  }
}

function movedClockEnv(clocks: ClockFolder): NodeJS.ProcessEnv {
  const preload = pathToFileURL(compiledFile("actors/chaos/moved-clock")).href;
  return { NODE_OPTIONS: `${process.env["NODE_OPTIONS"] ?? ""} --import ${preload}`, ...clocks.env };
}

function started<T>(value: T | undefined): T {
  if (value === undefined) throw new RallyError("closed", "the deployment has not been started");
  return value;
}
