import type { Launch, RoleHandlers } from "../../actors/supervisor/launch.ts";
import type { RoleCommand, RoleReport, RoleSettings, RoleStats } from "../../actors/protocol/role.ts";

type Signal = "SIGTERM" | "SIGKILL";

/** A role process that does what a test says. */
export class FakeRole {
  readonly settings: RoleSettings;
  readonly pid: number;
  readonly commands: RoleCommand["kind"][] = [];
  readonly signals: Signal[] = [];
  alive = true;
  /** Answers `stats`, `trace` and `drain` by itself; a hanging process does not. */
  answers = true;
  readonly #handlers: RoleHandlers;

  constructor(settings: RoleSettings, pid: number, handlers: RoleHandlers) {
    this.settings = settings;
    this.pid = pid;
    this.#handlers = handlers;
  }

  report(report: RoleReport): void {
    this.#handlers.report(report);
  }

  exit(how = "ended with status 1", lastLines = ""): void {
    if (!this.alive) return;
    this.alive = false;
    this.#handlers.exit(how, lastLines);
  }

  command(command: RoleCommand): void {
    this.commands.push(command.kind);
    if (!this.answers) return;
    if (command.kind === "drain") this.exit("ended with status 0");
    else if (command.kind === "stats") this.report({ kind: "stats", stats: this.stats });
    else this.report({ kind: "trace", events: [] });
  }

  get stats(): RoleStats {
    const sums = { elapsedMs: 0, busyMs: 0, batches: 0, runs: 0, rows: 0, waitMs: 0, waiting: 0 };
    return { role: "expert", id: this.settings.id, shard: 0, ...sums, rssBytes: 0, badMessages: 0 };
  }
}

/** Launches fakes and remembers them, newest last. */
export class FakeLaunch {
  readonly roles: FakeRole[] = [];
  /** Called for each new process; by default nothing happens. */
  onLaunch: (role: FakeRole) => void = () => undefined;

  readonly launch: Launch = (settings, handlers) => {
    const role = new FakeRole(settings, 1000 + this.roles.length, handlers);
    this.roles.push(role);
    this.onLaunch(role);
    return {
      pid: role.pid,
      send: (command) => role.command(command),
      disconnect: () => role.answers && role.exit("ended with status 0"),
      kill: (signal) => {
        role.signals.push(signal);
        if (signal === "SIGKILL") role.exit("ended by SIGKILL");
      },
    };
  };

  get alive(): readonly FakeRole[] {
    return this.roles.filter(({ alive }) => alive);
  }

  get last(): FakeRole {
    const role = this.roles.at(-1);
    if (role === undefined) throw new Error("nothing was launched");
    return role;
  }
}
