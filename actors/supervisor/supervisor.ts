import { pin } from "../../infra/cores.ts";
import { RallyError } from "../../infra/errors.ts";
import type { NatsConnection } from "../../infra/nats-connect.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { shardSpecs } from "../../models/load.ts";
import type { Placement } from "../protocol/messages.ts";
import { Placements, sharedExpertsAt, type Wanted } from "../protocol/placement.ts";
import type { RoleStats, TraceEvent } from "../protocol/role.ts";
import { openRequestQueue, openTokenLog, removeStreams } from "../protocol/streams.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { checkShards, others, placementFor } from "./membership.ts";
import { describeServer, type NatsDescription } from "./nats-description.ts";
import { OwnServer } from "./own-server.ts";
import { PlacementKeeper } from "./placement-keeper.ts";
import { type RoleEvent, RoleSet } from "./role-set.ts";
import { defaultPorts, type ModelDescription, type SupervisorPorts } from "./supervisor-ports.ts";
import { attentionSlots, checkTopology, expertSlots, type Topology } from "./topology.ts";

export type SupervisorEvent = RoleEvent;

/**
 * Where the placement comes from. "make": it is to have the topology's shards. "adopt": as the deployment has it, and only if
 * it has none, the topology's. "join": as a deployment has it that others run.
 */
type PlacementSource = "make" | "adopt" | "join";

export interface SupervisorOptions {
  readonly topology: Topology;
  readonly placement?: PlacementSource;
  /** The shards to host; all of them, of later placements too, if left out. */
  readonly shards?: readonly number[];
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

/** Starts a deployment's processes on this machine, keeps them running, and ends them all. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #ports: SupervisorPorts;
  readonly #roles: RoleSet;
  readonly #stopRequested: Promise<never>;
  /** Placements whose experts this supervisor has, or has had. */
  readonly #epochs = new Set<number>();
  #requestStop: (error: RallyError) => void = () => undefined;
  #server: OwnServer | undefined;
  #connection: Promise<NatsConnection> | undefined;
  #nats: { readonly settings: NatsSettings; readonly description: NatsDescription } | undefined;
  #placement: Placement | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#ports = { ...defaultPorts(), ...options.ports };
    this.#roles = new RoleSet({ ...this.#ports, onEvent: options.onEvent });
    this.#stopRequested = new Promise((_, reject) => (this.#requestStop = reject));
    this.#stopRequested.catch(() => undefined);
  }

  /** Known once `start` has resolved. */
  get nats(): { readonly settings: NatsSettings; readonly description: NatsDescription } {
    return started(this.#nats);
  }

  /** The placement it started with. Known once `start` has resolved. */
  get placement(): Placement {
    return started(this.#placement);
  }

  /** Resolves when none of its actors is left because nobody needs them any more. */
  get retired(): Promise<void> {
    return this.#roles.retired;
  }

  get pids(): readonly number[] {
    return this.#roles.pids;
  }

  /** Resolves when every role is ready. On a failure, or `stop` meanwhile (`cancelled`), everything is ended first. */
  async start(): Promise<void> {
    try {
      const { topology, nats, trace = false } = this.#options;
      checkTopology(topology);
      // Says at once if it cannot be done.
      if (topology.turns !== undefined) await this.#unlessStopped(pin(process.pid, topology.turns));
      if (topology.provider !== "cpu") await this.#unlessStopped(this.#ports.requireProvider(topology.provider));
      const { deployment, modelDir } = topology;
      const model = this.#ports.describeModel(modelDir);
      // Looked at once the server is there.
      model.catch(() => undefined);
      const { settings, source } =
        nats === undefined ? await this.#unlessStopped(this.#startServer()) : { settings: nats, source: "existing" };
      this.#connection = this.#ports.connect(settings, { name: `rally-supervisor-${deployment}` });
      const connection = await this.#unlessStopped(this.#connection);
      this.#nats = { settings, description: describeServer(settings, connection.serverVersion, source) };
      const placements = await this.#unlessStopped(openStore(connection, deployment));
      this.#server?.watch(placements);
      // Before any role reads it: one with another model's hash would send them away.
      this.#placement = await this.#unlessStopped(
        this.#place(connection, placements, await this.#unlessStopped(model)),
      );
      checkShards(this.#placement, this.#options.shards);
      this.#roles.start(attentionSlots(topology, settings, trace));
      this.#host(this.#placement);
      await this.#unlessStopped(this.#roles.ready());
      await this.#unlessStopped(this.#follow(placements, (await model).numExperts));
    } catch (thrown) {
      await this.stop({ drain: false });
      throw thrown;
    }
  }

  /** Every role's sums as of now; a role that is being restarted is left out. */
  stats(): Promise<RoleStats[]> {
    return this.#roles.stats();
  }

  /** Trace events of all roles since the last call. */
  trace(): Promise<TraceEvent[]> {
    return this.#roles.trace();
  }

  /**
   * Ends everything, after finishing the requests in hand if `drain`. A drained deployment's server of our own stays until
   * actors that others have brought have left it too. Safe to call twice.
   */
  stop(options: { readonly drain: boolean }): Promise<void> {
    this.#requestStop(new RallyError("cancelled", "stopped while starting"));
    this.#stopping ??= this.#stop(options.drain);
    return this.#stopping;
  }

  /** Ends the roles now, without waiting for anyone; a server of our own ends with this process. */
  kill(): void {
    this.#requestStop(new RallyError("cancelled", "killed while starting"));
    this.#roles.kill();
  }

  #startServer(): Promise<{ readonly settings: NatsSettings; readonly source: string }> {
    const { topology, storeDir, onEvent } = this.#options;
    this.#server = new OwnServer({ ports: this.#ports, topology, storeDir, onEvent });
    return this.#server.start();
  }

  #place({ bus }: NatsConnection, placements: Placements, model: ModelDescription): Promise<Placement> {
    const { topology, placement: source = "make" } = this.#options;
    const { deployment, numShards, provider, sharedExperts = sharedExpertsAt(provider) } = topology;
    const wanted: Wanted = {
      deployment,
      modelHash: model.modelHash,
      shards: shardSpecs(model, numShards).map(({ experts }) => experts),
      ...(sharedExperts === "attention" && { sharedExperts }),
    };
    const { clock } = this.#ports;
    return placementFor({
      source,
      wanted,
      asksForShared: topology.sharedExperts !== undefined,
      numExperts: model.numExperts,
      placements,
      clock,
      others: () => others(bus, clock, deployment),
      warn: (text) => this.#warn(text),
    });
  }

  /** Hosts the placements to come. */
  async #follow(placements: Placements, numExperts: number): Promise<void> {
    const keeper = new PlacementKeeper({
      placements,
      last: this.placement,
      numExperts,
      clock: this.#ports.clock,
      host: (placement) => this.#host(placement),
      warn: (text) => this.#warn(text),
      isStopping: () => this.#stopping !== undefined,
    });
    await keeper.follow();
  }

  #warn(text: string): void {
    this.#options.onEvent({ kind: "warning", source: "supervisor", text });
  }

  #host({ epoch, shards, modelHash }: Placement): void {
    const first = this.placement;
    if (this.#stopping !== undefined || this.#epochs.has(epoch) || epoch < first.epoch) return;
    // That another model is served, the actors find out by themselves.
    if (modelHash !== first.modelHash) return;
    const { topology, shards: chosen, trace = false } = this.#options;
    const isFirst = epoch === first.epoch;
    // What was chosen by number was chosen in the placement of that time.
    if (chosen !== undefined && !isFirst) return;
    this.#epochs.add(epoch);
    const hosted = chosen ?? shards.map((_, shard) => shard);
    const suffix = isFirst ? "" : `-e${epoch}`;
    this.#roles.start(expertSlots(topology, this.nats.settings, trace, { epoch, shards: hosted, suffix }));
  }

  async #stop(drain: boolean): Promise<void> {
    await this.#roles.stop(drain);
    // What never started needs no ending.
    const connection = await this.#connection?.catch(() => undefined);
    if (drain && this.#server !== undefined && connection !== undefined) {
      await this.#quietly(this.#server.untilAlone(connection.bus));
    }
    this.#server?.unwatch();
    if (this.#options.removeAtStop === true && connection !== undefined) {
      await this.#quietly(removeStreams(connection.durable, subjectsOf(this.#options.topology.deployment)));
    }
    await this.#quietly(connection?.close());
    await this.#quietly(this.#server?.stop());
  }

  async #quietly(work: Promise<void> | undefined): Promise<void> {
    await work?.catch((thrown: unknown) => this.#warn(RallyError.from(thrown).message));
  }

  /** Nothing may be started once `stop` has looked at what there is. */
  async #unlessStopped<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    const result = await Promise.race([work, this.#stopRequested]);
    if (this.#stopping !== undefined) throw new RallyError("cancelled", "stopped while starting");
    return result;
  }
}

/** All of it, so that a store without room is found out before any actor starts. */
async function openStore({ durable }: NatsConnection, deployment: string): Promise<Placements> {
  const subjects = subjectsOf(deployment);
  await Promise.all([openRequestQueue(durable, subjects), openTokenLog(durable, subjects)]);
  return await Placements.open(durable, subjects);
}

function started<T>(value: T | undefined): T {
  if (value === undefined) throw new RallyError("closed", "the deployment has not been started");
  return value;
}
