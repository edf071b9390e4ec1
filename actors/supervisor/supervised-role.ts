import type { Clock, Timer } from "../../infra/clock.ts";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";
import type { RoleReport, RoleStats, TraceEvent } from "../protocol/role.ts";
import { Backoff } from "./backoff.ts";
import type { Launch, RoleProcess } from "./launch.ts";
import type { RoleSlot } from "./topology.ts";

interface RoleListener {
  progress(name: string, text: string): void;
  warning(name: string, text: string): void;
  ready(name: string): void;
  /** No further try is worth it. */
  failed(name: string, error: RallyError): void;
  /** It has ended because nobody needs it any more: the slot is to stay empty. */
  retired(role: SupervisedRole, why: string): void;
}

export interface SupervisedRoleOptions {
  readonly slot: RoleSlot;
  readonly launch: Launch;
  readonly clock: Clock;
  /** Random letters and digits that make an id unique per start. */
  readonly newSuffix: () => string;
  readonly listener: RoleListener;
}

/** Errors that the next start would only meet again. */
const HOPELESS: readonly ErrorCode[] = ["bad-settings", "bad-model", "unsupported-model", "provider-unavailable"];
/** Starts in a row that never got ready, after which a slot is given up. */
const MAX_FIRST_STARTS = 5;
const HEALTHY_AFTER_MS = 10_000;
const PROBE_EVERY_MS = 2_000;
/** Counted in probes rather than in time: after a machine has slept, nobody is silent yet. */
const MAX_UNANSWERED_PROBES = 5;
/** A starting role that reports nothing for this long hangs. */
const START_SILENCE_MS = 120_000;
const END_LIMIT_MS = 2_000;

/** Keeps one slot of the topology filled: starts a process, watches it, and starts the next when it is gone. */
export class SupervisedRole {
  readonly ready: Promise<void>;
  readonly #options: SupervisedRoleOptions;
  readonly #backoff = new Backoff();
  #settleReady: (error?: RallyError) => void = () => undefined;
  #process: RoleProcess | undefined;
  #isReady = false;
  #wasReady = false;
  #stopping = false;
  #numStarts = 0;
  #failure: RallyError | undefined;
  #retirement: string | undefined;
  #unanswered = 0;
  #watch: Timer | undefined;
  #healthy: Timer | undefined;
  #restart: Timer | undefined;
  #stats: ((stats: RoleStats | undefined) => void)[] = [];
  #traces: ((events: readonly TraceEvent[]) => void)[] = [];
  #gone: (() => void)[] = [];

  constructor(options: SupervisedRoleOptions) {
    this.#options = options;
    this.ready = new Promise((resolve, reject) => {
      this.#settleReady = (error) => (error === undefined ? resolve() : reject(error));
    });
    this.ready.catch(() => undefined);
  }

  get name(): string {
    return this.#options.slot.name;
  }

  get role(): RoleSlot["role"] {
    return this.#options.slot.role;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  start(): void {
    const { slot, launch, newSuffix } = this.#options;
    this.#restart = undefined;
    this.#numStarts++;
    this.#failure = undefined;
    this.#unanswered = 0;
    this.#process = launch(slot.settings(`${slot.name}-${newSuffix()}`), {
      report: (report) => this.#report(report),
      exit: (how, lastLines) => this.#exit(how, lastLines),
    });
    this.#watchStart();
  }

  /** The role's sums as of now; undefined if it is not running or does not answer in time. */
  stats(limitMs: number): Promise<RoleStats | undefined> {
    if (!this.#isReady) return Promise.resolve(undefined);
    return this.#ask(this.#stats, limitMs, undefined, "stats");
  }

  /** Trace events since the last call, of the process that runs now. */
  trace(limitMs: number): Promise<readonly TraceEvent[]> {
    if (!this.#isReady) return Promise.resolve([]);
    return this.#ask(this.#traces, limitMs, [], "trace");
  }

  /** Lets the role finish what it holds, at most for `limitMs`; resolves when its process is gone. */
  async drain(limitMs: number): Promise<void> {
    await this.#stop(limitMs, (process) => (this.#isReady ? process.send({ kind: "drain" }) : this.#endNow(process)));
  }

  /** Ends the role without finishing anything; resolves when its process is gone. */
  async end(): Promise<void> {
    await this.#stop(END_LIMIT_MS, (process) => this.#endNow(process));
  }

  kill(): void {
    this.#stopping = true;
    this.#cancelTimers();
    this.#process?.kill("SIGKILL");
  }

  #endNow(process: RoleProcess): void {
    // One that does not listen to its channel yet still has the system's way with signals.
    if (!this.#isReady) process.kill("SIGTERM");
    process.disconnect();
  }

  async #stop(limitMs: number, how: (process: RoleProcess) => void): Promise<void> {
    this.#stopping = true;
    this.#cancelTimers();
    const process = this.#process;
    if (process === undefined) return;
    const gone = new Promise<void>((resolve) => this.#gone.push(resolve));
    const { clock, listener } = this.#options;
    const limit = clock.after(limitMs, () => {
      listener.warning(this.name, `still there after ${limitMs} ms, killed`);
      process.kill("SIGKILL");
    });
    how(process);
    await gone;
    limit.cancel();
  }

  #report(report: RoleReport): void {
    const { listener, clock } = this.#options;
    this.#unanswered = 0;
    switch (report.kind) {
      case "progress":
        if (!this.#isReady) this.#watchStart();
        return listener.progress(this.name, report.text);
      case "warning":
        return listener.warning(this.name, report.text);
      case "failed":
        this.#failure = RallyError.fromWire(report.error);
        // It was started for a placement that has been passed over.
        if (this.#failure.code === "stale-epoch") this.#retirement = this.#failure.message;
        return;
      case "retired":
        this.#retirement = report.why;
        return;
      case "stats":
        for (const resolve of this.#stats.splice(0)) resolve(report.stats);
        return;
      case "trace":
        for (const resolve of this.#traces.splice(0)) resolve(report.events);
        return;
      case "ready":
        if (this.#stopping) return;
        this.#isReady = true;
        this.#wasReady = true;
        this.#watch?.cancel();
        this.#probe();
        this.#healthy = clock.after(HEALTHY_AFTER_MS, () => this.#backoff.reset());
        this.#settleReady();
        listener.ready(this.name);
    }
  }

  #exit(how: string, lastLines: string): void {
    const { clock, listener } = this.#options;
    this.#process = undefined;
    this.#isReady = false;
    this.#cancelTimers();
    for (const resolve of this.#stats.splice(0)) resolve(undefined);
    for (const resolve of this.#traces.splice(0)) resolve([]);
    for (const resolve of this.#gone.splice(0)) resolve();
    if (this.#stopping) return;
    if (this.#retirement !== undefined) {
      this.#stopping = true;
      this.#settleReady();
      listener.retired(this, this.#retirement);
      return;
    }
    const error = this.#failure ?? unexplained(this.name, how, lastLines);
    if (HOPELESS.includes(error.code) || (!this.#wasReady && this.#numStarts >= MAX_FIRST_STARTS)) {
      this.#stopping = true;
      this.#settleReady(error);
      listener.failed(this.name, error);
      return;
    }
    const delay = this.#backoff.next();
    listener.warning(this.name, `${error.message}; starting it again in ${delay} ms`);
    this.#restart = clock.after(delay, () => this.start());
  }

  #watchStart(): void {
    this.#watch?.cancel();
    this.#watch = this.#options.clock.after(START_SILENCE_MS, () =>
      this.#killSilent(`nothing heard for ${START_SILENCE_MS / 1000} s while it started`),
    );
  }

  /** The event loop of a healthy role always answers; what it is asked for is wanted anyway. */
  #probe(): void {
    this.#watch = this.#options.clock.after(PROBE_EVERY_MS, () => {
      if (this.#unanswered >= MAX_UNANSWERED_PROBES) return this.#killSilent(`${this.#unanswered} probes unanswered`);
      this.#unanswered++;
      this.#process?.send({ kind: "stats" });
      this.#probe();
    });
  }

  #killSilent(why: string): void {
    this.#failure = new RallyError("timeout", `${this.name} is silent (${why}) and was killed`);
    this.#process?.kill("SIGKILL");
  }

  #ask<T>(waiting: ((answer: T) => void)[], limitMs: number, without: T, kind: "stats" | "trace"): Promise<T> {
    return new Promise((resolve) => {
      const answer = (value: T) => {
        limit.cancel();
        resolve(value);
      };
      const limit = this.#options.clock.after(limitMs, () => {
        waiting.splice(waiting.indexOf(answer), 1);
        resolve(without);
      });
      waiting.push(answer);
      this.#process?.send({ kind });
    });
  }

  #cancelTimers(): void {
    for (const timer of [this.#watch, this.#healthy, this.#restart]) timer?.cancel();
  }
}

function unexplained(name: string, how: string, lastLines: string): RallyError {
  const printed = lastLines === "" ? "" : `, after printing: ${lastLines}`;
  return new RallyError("internal", `${name} ${how}${printed}`, { role: name });
}
