import type { Clock } from "../../infra/clock.ts";
import type { ChaosTarget } from "./chaos-target.ts";
import type { Load } from "./load.ts";
import type { PoolRequest } from "./workload.ts";

export interface InjectorOptions {
  readonly target: ChaosTarget;
  readonly load: Load;
  /** The load's different requests. */
  readonly pool: readonly PoolRequest[];
  readonly clock: Clock;
  readonly seed: number;
  /** Tells this run's request ids from those of others on the same server. */
  readonly run: string;
  /** Moves a process's wall clock; where that can be done. */
  readonly moveClock: ((pid: number, offsetMs: number) => void) | undefined;
}
