import { randomBytes } from "node:crypto";
import { type Clock, systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { startNatsServer } from "../../infra/nats-server.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { hashModel, loadConfig, shardSpecs } from "../../models/load.ts";
import type { Placement } from "../protocol/messages.ts";
import type { RoleStats, TraceEvent } from "../protocol/role.ts";
import { removeStreams } from "../protocol/streams.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { forkLauncher, type Launch } from "./launch.ts";
import { ensurePlacement } from "./placement.ts";
import { SupervisedRole } from "./supervised-role.ts";
import { SupervisedServer } from "./supervised-server.ts";
import { type RoleSlot, roleSlots, type Topology } from "./topology.ts";

export type SupervisorEvent =
  | { readonly kind: "progress" | "warning"; readonly source: string; readonly text: string }
  | { readonly kind: "ready"; readonly source: string }
  /** A role that will not be started again: the deployment cannot go on. */
  | { readonly kind: "failed"; readonly source: string; readonly error: RallyError };

export interface SupervisorOptions {
  readonly topology: Topology;
  /** An existing server; without it the supervisor starts one of its own. */
  readonly nats?: NatsSettings;
  /** For a server of its own: where queue and token log are kept; without it in a temporary folder, removed at the end. */
  readonly storeDir?: string;
  readonly trace?: boolean;
  /** Whether `stop` also removes what the deployment keeps on the server. */
  readonly removeAtStop?: boolean;
  readonly onEvent: (event: SupervisorEvent) => void;
  readonly ports?: Partial<SupervisorPorts>;
}

/** What the supervisor asks of the world. */
export interface SupervisorPorts {
  readonly clock: Clock;
  readonly newSuffix: () => string;
  readonly launch: Launch;
  readonly connect: typeof connectNats;
  readonly startServer: typeof startNatsServer;
  readonly describeModel: (modelDir: string, numShards: number) => Promise<Pick<Placement, "modelHash" | "shards">>;
}

/** Which server a deployment runs over. */
export interface NatsDescription {
  readonly url: string;
  readonly version: string;
  /** Where its binary came from, or "existing". */
  readonly source: string;
}

const DRAIN_LIMIT_MS = { attention: 12_000, expert: 4_000 } as const;
const ANSWER_LIMIT_MS = 3_000;
const TRACE_LIMIT_MS = 20_000;

/** Starts a deployment's processes on this machine, keeps them running, and ends them all. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #ports: SupervisorPorts;
  readonly #roles: SupervisedRole[] = [];
  readonly #stopRequested: Promise<never>;
  #requestStop: (error: RallyError) => void = () => undefined;
  #server: SupervisedServer | undefined;
  #connection: ReturnType<typeof connectNats> | undefined;
  #nats: { readonly settings: NatsSettings; readonly description: NatsDescription } | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#ports = { ...defaultPorts(), ...options.ports };
    this.#stopRequested = new Promise((_, reject) => (this.#requestStop = reject));
    this.#stopRequested.catch(() => undefined);
  }

  /** Known once `start` has resolved. */
  get nats(): { readonly settings: NatsSettings; readonly description: NatsDescription } {
    if (this.#nats === undefined) throw new RallyError("closed", "the deployment has not been started");
    return this.#nats;
  }

  get pids(): readonly number[] {
    return this.#roles.flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
  }

  /** Resolves when every role is ready. On a failure, or `stop` meanwhile (`cancelled`), everything is ended first. */
  async start(): Promise<void> {
    try {
      const { topology, trace = false } = this.#options;
      const { deployment, modelDir, numShards } = topology;
      const model = this.#ports.describeModel(modelDir, numShards);
      // Looked at once the server is there.
      model.catch(() => undefined);
      const { nats } = this.#options;
      const { settings, source } =
        nats === undefined ? await this.#unlessStopped(this.#startServer()) : { settings: nats, source: "existing" };
      const slots = roleSlots(topology, settings, trace);
      this.#connection = this.#ports.connect(settings, { name: `rally-supervisor-${deployment}` });
      const { durable, serverVersion } = await this.#unlessStopped(this.#connection);
      this.#nats = { settings, description: { url: withoutPassword(settings.url), version: serverVersion, source } };
      // Before any role reads it: one with another model's hash would send them away.
      const placement = { deployment, ...(await this.#unlessStopped(model)) };
      await this.#unlessStopped(ensurePlacement(durable, subjectsOf(deployment), placement));
      this.#roles.push(...slots.map((slot) => this.#supervise(slot)));
      for (const role of this.#roles) role.start();
      await this.#unlessStopped(Promise.all(this.#roles.map(({ ready }) => ready)));
    } catch (thrown) {
      await this.stop({ drain: false });
      throw thrown;
    }
  }

  /** Every role's sums as of now; a role that is being restarted is left out. */
  async stats(): Promise<RoleStats[]> {
    const stats = await Promise.all(this.#roles.map((role) => role.stats(ANSWER_LIMIT_MS)));
    return stats.filter((answer) => answer !== undefined);
  }

  /** Trace events of all roles since the last call. */
  async trace(): Promise<TraceEvent[]> {
    return (await Promise.all(this.#roles.map((role) => role.trace(TRACE_LIMIT_MS)))).flat();
  }

  /** Ends everything, after finishing the requests in hand if `drain`. Safe to call twice. */
  stop(options: { readonly drain: boolean }): Promise<void> {
    this.#requestStop(new RallyError("cancelled", "stopped while starting"));
    this.#stopping ??= this.#stop(options.drain);
    return this.#stopping;
  }

  /** Ends the roles now, without waiting for anyone; a server of our own ends with this process. */
  kill(): void {
    this.#requestStop(new RallyError("cancelled", "killed while starting"));
    for (const role of this.#roles) role.kill();
  }

  async #startServer(): Promise<{ readonly settings: NatsSettings; readonly source: string }> {
    const { startServer, clock } = this.#ports;
    const { storeDir, onEvent } = this.#options;
    this.#server = new SupervisedServer({
      startServer,
      clock,
      storeDir,
      progress: (text) => onEvent({ kind: "progress", source: "nats-server", text }),
      warning: (text) => onEvent({ kind: "warning", source: "nats-server", text }),
    });
    const { url, source } = await this.#server.start();
    return { settings: { url }, source };
  }

  #supervise(slot: RoleSlot): SupervisedRole {
    const { launch, clock, newSuffix } = this.#ports;
    const { onEvent } = this.#options;
    return new SupervisedRole({
      slot,
      launch,
      clock,
      newSuffix,
      listener: {
        progress: (source, text) => onEvent({ kind: "progress", source, text }),
        warning: (source, text) => onEvent({ kind: "warning", source, text }),
        ready: (source) => onEvent({ kind: "ready", source }),
        failed: (source, error) => onEvent({ kind: "failed", source, error }),
      },
    });
  }

  async #stop(drain: boolean): Promise<void> {
    // Attention actors need the experts to finish what they hold.
    for (const kind of ["attention", "expert"] as const) {
      const roles = this.#roles.filter(({ role }) => role === kind);
      await Promise.all(roles.map((role) => (drain ? role.drain(DRAIN_LIMIT_MS[kind]) : role.end())));
    }
    // What never started needs no ending.
    const connection = await this.#connection?.catch(() => undefined);
    if (this.#options.removeAtStop === true && connection !== undefined) {
      await this.#quietly(removeStreams(connection.durable, subjectsOf(this.#options.topology.deployment)));
    }
    await this.#quietly(connection?.close());
    await this.#quietly(this.#server?.stop());
  }

  async #quietly(work: Promise<void> | undefined): Promise<void> {
    await work?.catch((thrown: unknown) => {
      this.#options.onEvent({ kind: "warning", source: "supervisor", text: RallyError.from(thrown).message });
    });
  }

  /** Nothing may be started once `stop` has looked at what there is. */
  async #unlessStopped<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    const result = await Promise.race([work, this.#stopRequested]);
    if (this.#stopping !== undefined) throw new RallyError("cancelled", "stopped while starting");
    return result;
  }
}

function defaultPorts(): SupervisorPorts {
  return {
    clock: systemClock,
    newSuffix: () => randomBytes(4).toString("hex"),
    launch: forkLauncher(),
    connect: connectNats,
    startServer: startNatsServer,
    async describeModel(modelDir, numShards) {
      const [config, modelHash] = await Promise.all([loadConfig(modelDir), hashModel(modelDir)]);
      return { modelHash, shards: shardSpecs(config, numShards).map(({ experts }) => experts) };
    },
  };
}

function withoutPassword(url: string): string {
  return url.replaceAll(/\/\/[^@/]*@/g, "//");
}
