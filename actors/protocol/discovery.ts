import { randomUUID } from "node:crypto";
import type { Bus } from "../../infra/bus.ts";
import type { Clock } from "../../infra/clock.ts";
import type { RoleStats } from "./role.ts";
import { SERVICE_NAMES, serviceSubject, type Verb } from "./service.ts";

/** An actor as it describes itself. */
export interface FoundRole {
  readonly role: keyof typeof SERVICE_NAMES;
  readonly id: string;
  readonly version: string;
  readonly deployment: string;
  readonly host: string;
  readonly pid: number;
  /** Experts only. */
  readonly shard?: number;
  readonly epoch?: number;
  /** Only if asked for. */
  readonly stats?: RoleStats;
}

export interface DiscoverOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly role?: FoundRole["role"];
  /** Whether they are to send their sums as well. */
  readonly withStats?: boolean;
}

/** Nobody knows how many there are: the answer is complete when nothing has come for so long, after `LIMIT_MS` in any case. */
const QUIET_MS = 250;
const LIMIT_MS = 2_000;

/** Every actor that this server knows, of all deployments, sorted by role and id. */
export async function discover({ bus, clock, role, withStats = false }: DiscoverOptions): Promise<FoundRole[]> {
  const verb: Verb = withStats ? "STATS" : "PING";
  const roles = role === undefined ? (["attention", "expert"] as const) : [role];
  const found = await Promise.all(roles.map((each) => ask(bus, clock, each, verb)));
  return found.flat().sort((a, b) => a.role.localeCompare(b.role) || a.id.localeCompare(b.id));
}

function ask(bus: Bus, clock: Clock, role: FoundRole["role"], verb: Verb): Promise<FoundRole[]> {
  const found = new Map<string, FoundRole>();
  const inbox = `_INBOX.${randomUUID()}`;
  return new Promise((resolve) => {
    const finish = () => {
      subscription.unsubscribe();
      limit.cancel();
      quiet.cancel();
      resolve([...found.values()]);
    };
    const limit = clock.after(LIMIT_MS, finish);
    let quiet = clock.after(QUIET_MS, finish);
    const subscription = bus.subscribe(inbox, ({ payload, noResponders }) => {
      if (noResponders) return finish();
      const one = readAnswer(role, payload);
      if (one !== undefined) found.set(one.id, one);
      quiet.cancel();
      quiet = clock.after(QUIET_MS, finish);
    });
    bus.publish(serviceSubject(verb, SERVICE_NAMES[role]), new Uint8Array(), inbox);
  });
}

/** Undefined for what is no answer of ours: anybody may offer a service of this name. */
function readAnswer(role: FoundRole["role"], payload: Uint8Array): FoundRole | undefined {
  let answer: Answer;
  try {
    answer = JSON.parse(Buffer.from(payload).toString()) as Answer;
  } catch {
    return undefined;
  }
  const { id, version, metadata, endpoints } = answer ?? {};
  if (typeof id !== "string" || typeof version !== "string" || typeof metadata?.["deployment"] !== "string") {
    return undefined;
  }
  const { deployment, host = "", pid, shard, epoch } = metadata;
  const stats = endpoints?.[0]?.data;
  return {
    role,
    id,
    version,
    deployment,
    host,
    pid: Number(pid ?? 0),
    ...(shard !== undefined && { shard: Number(shard) }),
    ...(epoch !== undefined && { epoch: Number(epoch) }),
    ...(stats !== undefined && { stats }),
  };
}

/** As far as it is looked at; any of it may be missing. */
interface Answer {
  readonly id?: string;
  readonly version?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly endpoints?: readonly { readonly data?: RoleStats }[];
}
