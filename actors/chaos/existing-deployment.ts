import { NatsProxy } from "../../infra/chaos/nats-proxy.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats, type NatsConnection } from "../../infra/nats-connect.ts";
import { type NatsSettings, serverAddresses } from "../../infra/nats-settings.ts";
import { loadConfig } from "../../models/load.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { RallyClient } from "../client/rally-client.ts";
import { readPlacement } from "../protocol/placement.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import type { ChaosTarget, DeploymentEvent } from "./chaos-target.ts";
import { type Fault, isIn } from "./faults.ts";
import { localRoles } from "./local-roles.ts";
import { CLIENT_SLOT, type TargetSlot } from "./schedule.ts";

export interface FindOptions {
  readonly nats: NatsSettings;
  readonly deployment: string;
  readonly modelDir: string;
  readonly seed: number;
}

interface Found {
  readonly connections: readonly NatsConnection[];
  readonly proxy: NatsProxy | undefined;
  readonly model: ChaosTarget["model"];
  readonly slots: readonly TargetSlot[];
}

/**
 * A deployment that somebody else started. Its own supervisor sees to it, so what can be done from here is: faults of clients
 * and messages, network faults of our own connection, and signals to those of its processes that run on this machine.
 */
export class ExistingDeployment implements ChaosTarget {
  readonly broker = undefined;
  readonly events: readonly DeploymentEvent[] = [];
  readonly deployment: string;
  readonly nats: NatsSettings;
  readonly client: RallyClient;
  readonly slots: readonly TargetSlot[];
  readonly model: ChaosTarget["model"];
  readonly #found: Found;

  private constructor({ deployment, nats }: FindOptions, found: Found) {
    this.deployment = deployment;
    this.nats = nats;
    this.slots = found.slots;
    this.model = found.model;
    this.#found = found;
    const { bus, durable } = found.connections.at(-1) ?? this.connection;
    this.client = new RallyClient({ bus, durable, deployment });
  }

  /** RallyError `server-unavailable` if there is none. */
  static async find(options: FindOptions): Promise<ExistingDeployment> {
    const { nats, deployment, modelDir, seed } = options;
    const connections = [await connectNats(nats, { name: "rally-chaos" })];
    let proxy: NatsProxy | undefined;
    try {
      const [direct] = connections;
      const placement = direct && (await readPlacement(direct.durable, subjectsOf(deployment)));
      if (placement === undefined) {
        throw new RallyError("server-unavailable", `no deployment ${deployment} is served there`, { deployment });
      }
      const [config, tokenizer] = await Promise.all([loadConfig(modelDir), loadTokenizer(modelDir)]);
      proxy = await proxyFor(nats, seed);
      if (proxy !== undefined) {
        const url = `nats://${credentialsIn(nats.url)}127.0.0.1:${proxy.port}`;
        connections.push(await connectNats({ ...nats, url }, { name: "rally-chaos-client" }));
      }
      const slots = slotsOf(deployment);
      const model = { encode: (text: string) => tokenizer.encode(text), bosTokenId: config.bosTokenId };
      return new ExistingDeployment(options, { connections, proxy, model, slots });
    } catch (thrown) {
      for (const connection of connections) await connection.close();
      await proxy?.close();
      throw thrown;
    }
  }

  get description(): string {
    const numLocal = this.slots.length - 1;
    return `deployment ${this.deployment}, started elsewhere, ${numLocal} of its actors on this machine`;
  }

  get connection(): NatsConnection {
    const [direct] = this.#found.connections;
    if (direct === undefined) throw new RallyError("closed", "the deployment was never found");
    return direct;
  }

  cannot(fault: Fault): string | undefined {
    if (isIn(fault, "client") || isIn(fault, "message")) return undefined;
    if (fault.kind === "clock-jump") return "the clock of a process that runs already cannot be moved";
    if (isIn(fault, "broker")) return "its nats-server is not ours";
    if (isIn(fault, "network") && this.#found.proxy === undefined)
      return "its server speaks TLS, which no proxy can read";
    return undefined;
  }

  pidOf(slot: string): number | undefined {
    return localRoles(this.deployment).find(({ settings }) => slotName(settings.id) === slot)?.pid;
  }

  proxyOf(slot: string): NatsProxy | undefined {
    return slot === CLIENT_SLOT ? this.#found.proxy : undefined;
  }

  /** Only their supervisor can ask the roles. */
  async stats(): Promise<undefined> {
    return undefined;
  }

  async stop(): Promise<readonly number[]> {
    await this.client.close();
    for (const connection of this.#found.connections) await connection.close();
    await this.#found.proxy?.close();
    return [];
  }

  /** It is not ours to end. */
  kill(): void {}
}

/** A slot for the client and one for each process on this machine; what runs elsewhere is out of reach. */
function slotsOf(deployment: string): TargetSlot[] {
  const slots: TargetSlot[] = [{ name: CLIENT_SLOT, role: "client" }];
  const next = new Map<string, number>();
  for (const { settings } of localRoles(deployment)) {
    const { role, shard, id } = settings;
    const group = role === "expert" ? `expert-${shard}` : role;
    const position = next.get(group) ?? 0;
    next.set(group, position + 1);
    const place = role === "expert" ? { shard: shard ?? 0, replica: position } : { index: position };
    slots.push({ name: slotName(id), role, ...place });
  }
  return slots;
}

/** An id is the slot's name and what makes it unique per start. */
function slotName(id: string): string {
  return id.slice(0, id.lastIndexOf("-"));
}

async function proxyFor(nats: NatsSettings, seed: number): Promise<NatsProxy | undefined> {
  const [upstream] = serverAddresses(nats);
  if (upstream === undefined || upstream.tls || nats.tlsCaFile !== undefined) return undefined;
  return await NatsProxy.listen({
    clock: systemClock,
    random: new SeededRandom(seed, "proxy-client"),
    upstream: () => upstream,
  });
}

function credentialsIn(url: string): string {
  return /\/\/([^@/]*@)/.exec(url)?.[1] ?? "";
}
