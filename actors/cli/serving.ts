import { randomBytes, randomUUID } from "node:crypto";
import path from "node:path";
import type { Bus } from "../../infra/bus.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { RallyClient } from "../client/rally-client.ts";
import { readPlacement } from "../protocol/placement.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import { describeServer } from "../supervisor/nats-description.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import type { Topology } from "../supervisor/topology.ts";
import { writeTraceFile } from "../supervisor/trace-file.ts";
import type { CommandContext } from "./command.ts";
import { deploymentFolder, readRecord } from "./deployment-record.ts";
import { type ServingTopology, servingTopology } from "./serving-topology.ts";

/** A deployment to send requests to, whoever started it. */
export interface Serving {
  readonly client: RallyClient;
  readonly topology: ServingTopology;
  /** Aborted, with a RallyError as reason, when it cannot go on; requests then end with `closed`. */
  readonly failed: AbortSignal;
  /** Lets go of it; ends it if it was started for this command. */
  close(): Promise<void>;
}

/** The deployment that runs at `nats`, or the one that `rally up` has recorded on this machine; undefined if there is none. */
export async function findServing(
  deployment: string,
  nats: NatsSettings | undefined,
  env: NodeJS.ProcessEnv,
): Promise<Serving | undefined> {
  const record = nats === undefined ? readRecord(deploymentFolder(env, deployment))?.ready : undefined;
  const settings = nats ?? record?.nats;
  if (settings === undefined) return undefined;
  const connection = await connectNats(settings, { name: "rally-run" });
  try {
    const subjects = subjectsOf(deployment);
    if (!(await isServed(connection.bus, deployment))) {
      await connection.close();
      return undefined;
    }
    const placement = await readPlacement(connection.durable, subjects);
    const client = new RallyClient({ bus: connection.bus, durable: connection.durable, deployment });
    return {
      client,
      topology: {
        deployment,
        ...record?.topology,
        // Others may have moved it since.
        ...(placement !== undefined && { experts: placement.shards.length }),
        nats: record?.topology.nats ?? describeServer(settings, connection.serverVersion),
        ephemeral: false,
      },
      failed: new AbortController().signal,
      async close() {
        await client.close();
        await connection.close();
      },
    };
  } catch (thrown) {
    await connection.close();
    throw thrown;
  }
}

export interface StartOptions {
  readonly topology: Topology;
  /** Whether its name was chosen; another is made up on a server that others use too. */
  readonly isNamed: boolean;
  readonly nats: NatsSettings | undefined;
  readonly store: string | undefined;
  readonly traceFile: string | undefined;
  /** The request to come: what happens to it is its result's to tell, not an actor's warning. */
  readonly requestId: string;
}

/** Starts a deployment for this command alone. */
export async function startServing(options: StartOptions, context: CommandContext): Promise<Serving> {
  const { nats, store, traceFile } = options;
  const { terminal, interrupted } = context;
  const isShared = nats !== undefined && !options.isNamed;
  const topology = isShared
    ? { ...options.topology, deployment: `run-${randomBytes(4).toString("hex")}` }
    : options.topology;
  if (traceFile !== undefined) await writeTraceFile(traceFile, []);
  const failed = new AbortController();
  const supervisor = new Supervisor({
    topology,
    ...(nats !== undefined && { nats }),
    ...(store !== undefined && { storeDir: path.resolve(store) }),
    trace: traceFile !== undefined,
    removeAtStop: isShared,
    onEvent(event) {
      if (event.kind === "progress") terminal.progress(withSource(event.source, event.text));
      else if (event.kind === "failed") failed.abort(event.error);
      else if (event.kind === "warning" && !event.text.includes(options.requestId)) {
        terminal.say(withSource(event.source, event.text));
      }
    },
  });
  context.onKill(() => supervisor.kill());
  const stop = () => void supervisor.stop({ drain: false });
  interrupted.addEventListener("abort", stop);
  terminal.progress("starting the actors");
  try {
    if (interrupted.aborted) throw new RallyError("cancelled", "interrupted");
    await supervisor.start();
  } finally {
    interrupted.removeEventListener("abort", stop);
  }
  try {
    const connection = await connectNats(supervisor.nats.settings, { name: "rally-run" });
    const client = new RallyClient({
      bus: connection.bus,
      durable: connection.durable,
      deployment: topology.deployment,
    });
    failed.signal.addEventListener("abort", () => void client.close());
    return {
      client,
      topology: servingTopology(topology, supervisor.nats.description, true),
      failed: failed.signal,
      async close() {
        if (traceFile !== undefined) await writeTraceFile(traceFile, await supervisor.trace());
        await client.close();
        await connection.close();
        // Nothing is in hand; draining only matters for a store that outlives the actors.
        await supervisor.stop({ drain: nats !== undefined || store !== undefined });
      },
    };
  } catch (thrown) {
    await supervisor.stop({ drain: false });
    throw thrown;
  }
}

export function withSource(source: string, text: string): string {
  return text.startsWith(source) ? text : `${source}: ${text}`;
}

/**
 * Whether an attention actor is there: a cancel of a request that nobody has does nothing, but if nobody hears it the server
 * says so before it answers the flush.
 */
async function isServed(bus: Bus, deployment: string): Promise<boolean> {
  let heard = true;
  const subjects = subjectsOf(deployment);
  const inbox = `rally.${deployment}.probe.${randomUUID()}`;
  const subscription = bus.subscribe(inbox, ({ noResponders }) => {
    if (noResponders) heard = false;
  });
  try {
    bus.publish(subjects.cancel(randomUUID()), new Uint8Array(), inbox);
    await bus.flush();
    return heard;
  } finally {
    subscription.unsubscribe();
  }
}
