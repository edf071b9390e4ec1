import type { NatsProxy } from "../../infra/chaos/nats-proxy.ts";
import type { NatsConnection } from "../../infra/nats-connect.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { RallyClient } from "../client/rally-client.ts";
import type { RoleStats } from "../protocol/role.ts";
import type { Fault } from "./faults.ts";
import type { TargetSlot } from "./schedule.ts";

/** nats-server, where it is ours to torment. */
export interface Broker {
  readonly pid: number | undefined;
  /** It comes back, but not before so many milliseconds. */
  end(signal: "SIGKILL" | "SIGTERM", downMs: number): void;
  /** Resolves when it answers again. */
  isBack(signal: AbortSignal): Promise<void>;
}

/** Something that happened to the deployment, for who asks what led to a broken promise. */
export interface DeploymentEvent {
  /** On the clock that runs the harness. */
  readonly atMs: number;
  readonly kind: "warning" | "down" | "ready" | "failed";
  readonly source: string;
  readonly text: string;
}

/** A deployment under faults, whoever started it. */
export interface ChaosTarget {
  readonly deployment: string;
  /** The server itself, past every proxy. */
  readonly nats: NatsSettings;
  readonly slots: readonly TargetSlot[];
  readonly model: { readonly encode: (text: string) => readonly number[]; readonly bosTokenId: number | undefined };
  readonly client: RallyClient;
  readonly connection: NatsConnection;
  readonly broker: Broker | undefined;
  readonly events: readonly DeploymentEvent[];
  /** Why this fault cannot be injected here; undefined if it can. */
  cannot(fault: Fault): string | undefined;
  /** Undefined while the slot is empty. */
  pidOf(slot: string): number | undefined;
  proxyOf(slot: string): NatsProxy | undefined;
  /** Every role's sums; undefined where nobody can be asked. */
  stats(): Promise<readonly RoleStats[] | undefined>;
  /** Processes started for the deployment that are still there although it has ended. */
  stop(): Promise<readonly number[]>;
  /** At once, waiting for nobody. */
  kill(): void;
}
