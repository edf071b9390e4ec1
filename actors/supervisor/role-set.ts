import type { RallyError } from "../../infra/errors.ts";
import type { RoleStats, TraceEvent } from "../protocol/role.ts";
import { SupervisedRole } from "./supervised-role.ts";
import type { SupervisorPorts } from "./supervisor-ports.ts";
import type { RoleSlot } from "./topology.ts";

export type RoleEvent =
  | { readonly kind: "progress" | "warning"; readonly source: string; readonly text: string }
  | { readonly kind: "ready"; readonly source: string }
  /** A role that will not be started again: the deployment cannot go on. */
  | { readonly kind: "failed"; readonly source: string; readonly error: RallyError };

export interface RoleSetOptions extends Pick<SupervisorPorts, "launch" | "clock" | "newSuffix"> {
  readonly onEvent: (event: RoleEvent) => void;
}

const DRAIN_LIMIT_MS = { attention: 12_000, expert: 4_000 } as const;
const ANSWER_LIMIT_MS = 3_000;
const TRACE_LIMIT_MS = 20_000;

/** The processes of one supervisor. */
export class RoleSet {
  /** Resolves when none is left because nobody needs them any more. */
  readonly retired: Promise<void>;
  readonly #options: RoleSetOptions;
  readonly #roles = new Set<SupervisedRole>();
  #settleRetired: () => void = () => undefined;

  constructor(options: RoleSetOptions) {
    this.#options = options;
    this.retired = new Promise((resolve) => (this.#settleRetired = resolve));
  }

  get pids(): readonly number[] {
    return [...this.#roles].flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
  }

  /** Resolves when each of those that are there now is ready. */
  async ready(): Promise<void> {
    await Promise.all([...this.#roles].map(({ ready }) => ready));
  }

  start(slots: readonly RoleSlot[]): void {
    for (const slot of slots) {
      const role = this.#supervise(slot);
      this.#roles.add(role);
      role.start();
    }
  }

  /** A role that is being restarted is left out. */
  async stats(): Promise<RoleStats[]> {
    const stats = await Promise.all([...this.#roles].map((role) => role.stats(ANSWER_LIMIT_MS)));
    return stats.filter((answer) => answer !== undefined);
  }

  async trace(): Promise<TraceEvent[]> {
    return (await Promise.all([...this.#roles].map((role) => role.trace(TRACE_LIMIT_MS)))).flat();
  }

  async stop(drain: boolean): Promise<void> {
    // Attention actors need the experts to finish what they hold.
    for (const kind of ["attention", "expert"] as const) {
      const roles = [...this.#roles].filter(({ role }) => role === kind);
      await Promise.all(roles.map((role) => (drain ? role.drain(DRAIN_LIMIT_MS[kind]) : role.end())));
    }
  }

  /** Without waiting for anyone. */
  kill(): void {
    for (const role of this.#roles) role.kill();
  }

  #supervise(slot: RoleSlot): SupervisedRole {
    const { launch, clock, newSuffix, onEvent } = this.#options;
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
        retired: (role, text) => {
          onEvent({ kind: "progress", source: role.name, text });
          this.#roles.delete(role);
          if (this.#roles.size === 0) this.#settleRetired();
        },
      },
    });
  }
}
