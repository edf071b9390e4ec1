import { randomBytes } from "node:crypto";
import { pause } from "../../infra/chaos/pause.ts";
import { type Clock, systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { ChaosTarget } from "./chaos-target.ts";
import { workBetween, workSums } from "./extra-work.ts";
import { type Holdings, holdingsOf, leaksOf } from "./idle.ts";
import type { InjectedFault } from "./injected.ts";
import { Injector } from "./injector.ts";
import { judge } from "./judge.ts";
import { Load } from "./load.ts";
import { checkLog, type CheckedLog } from "./oracle.ts";
import { readLogs } from "./pass.ts";
import type { ScenarioResult } from "./result.ts";
import type { Scenario } from "./scenario.ts";
import { lastCountedMs, schedule } from "./schedule.ts";
import { StallWatch } from "./stall-watch.ts";
import { type PoolRequest, workload } from "./workload.ts";

export interface RunOptions {
  readonly scenario: Scenario;
  readonly seed: number;
  readonly target: ChaosTarget;
  /** What the deployment consists of, in words. */
  readonly topology: string;
  readonly moveClock: ((pid: number, offsetMs: number) => void) | undefined;
  readonly signal: AbortSignal;
  readonly progress: (text: string) => void;
  readonly clock?: Clock;
}

const PROGRESS_EVERY_MS = 250;
const WARM_UP_REQUESTS = 4;

/** One scenario against a deployment that runs: without faults, with faults, then the verdict. Stops the deployment. */
export async function runScenario(options: RunOptions): Promise<ScenarioResult> {
  const { scenario, seed, target, signal } = options;
  const clock = options.clock ?? systemClock;
  const startedAt = new Date(clock.now()).toISOString();
  const stopOnSignal = () => void target.client.close();
  signal.addEventListener("abort", stopOnSignal, { once: true });
  let hasStopped = false;
  try {
    const run = randomBytes(3).toString("hex");
    const pool = workload(scenario.load, target.model, seed);
    // Before anything is sent: what the run without faults leaks counts as well.
    const before = await settled(target, clock);
    await loadOf(options, clock, pool, `warm-${run}`).run((count) => count < WARM_UP_REQUESTS);
    const sumsAtFirst = await workSums(target);
    const reference = loadOf(options, clock, pool, `free-${run}`);
    await watched(options, clock, reference, "without faults", () => reference.run((count) => count < pool.length));
    checkInterrupted(signal);
    const expected = await faultFreeStreams(target, reference, clock);
    const sumsBetween = await workSums(target);
    const load = loadOf(options, clock, pool, `chaos-${run}`);
    const loadStartedAt = clock.elapsed();
    const watch = new StallWatch(clock);
    const { injected, poisoned } = await underFaults(options, clock, pool, load, run).finally(() => watch.close());
    checkInterrupted(signal);
    options.progress(`${scenario.name}: looking at what is left`);
    const leaks = await leaksOf(target, before, { clock, limitMs: scenario.hold.idleWithinMs });
    const sumsAtLast = await workSums(target);
    const ids = load.records.map(({ requestId }) => requestId);
    const logs = await readLogs(target, [...ids, ...poisoned], clock);
    hasStopped = true;
    const orphans = await target.stop();
    return judge({
      scenario,
      seed,
      startedAt,
      topology: options.topology,
      slots: target.slots,
      reference,
      load,
      extraWork: {
        reference: workBetween(sumsAtFirst, sumsBetween),
        load: workBetween(sumsBetween, sumsAtLast),
      },
      expected,
      logs,
      injected,
      poisoned,
      leaks: [...leaks, ...orphans.map((pid) => ({ what: `process ${pid}`, amount: 1 }))],
      events: target.events.map((event) => ({ ...event, atMs: event.atMs - loadStartedAt })),
      stalls: watch.stalls.map(({ fromMs, toMs }) => ({ fromMs: fromMs - loadStartedAt, toMs: toMs - loadStartedAt })),
    });
  } finally {
    signal.removeEventListener("abort", stopOnSignal);
    if (!hasStopped) await target.stop();
  }
}

function loadOf(
  { scenario, seed, target, signal }: RunOptions,
  clock: Clock,
  pool: readonly PoolRequest[],
  prefix: string,
) {
  const { arrival } = scenario.load;
  return new Load({ client: target.client, pool, arrival, prefix, seed, clock, signal });
}

/** What the logs say after the run without faults. It is held to the promises as well, or it could not be a measure. */
async function faultFreeStreams(target: ChaosTarget, reference: Load, clock: Clock): Promise<CheckedLog[]> {
  const logs = await readLogs(
    target,
    reference.records.map(({ requestId }) => requestId),
    clock,
  );
  return reference.records.map(({ requestId }) => checkLog(requestId, logs.get(requestId) ?? [], undefined));
}

/** Nothing of ours is under way, so what is held now is what is always held. */
async function settled(target: ChaosTarget, clock: Clock): Promise<Holdings> {
  await leaksOf(target, new Map(), { clock, limitMs: 3_000 });
  return await holdingsOf(target);
}

async function underFaults(
  options: RunOptions,
  clock: Clock,
  pool: readonly PoolRequest[],
  load: Load,
  run: string,
): Promise<{ readonly injected: readonly InjectedFault[]; readonly poisoned: readonly string[] }> {
  const { scenario, seed, target, signal, moveClock } = options;
  const { requests, durationMs } = scenario.load;
  const injected: InjectedFault[] = [];
  const injector = new Injector({ target, load, pool, clock, seed, run, moveClock });
  const isOver = new AbortController();
  signal.addEventListener("abort", () => isOver.abort(), { once: true });
  const lastFaultMs = durationMs === undefined ? lastCountedMs(scenario, target.slots, seed) : 0;
  const more = (numIssued: number) =>
    durationMs === undefined ? numIssued < requests || load.elapsedMs < lastFaultMs : load.elapsedMs < durationMs;
  const faults = (async () => {
    const running: Promise<void>[] = [];
    for (const planned of schedule(scenario, target.slots, seed)) {
      await pause(clock, planned.atMs - load.elapsedMs, isOver.signal);
      if (isOver.signal.aborted) break;
      running.push(injector.inject(planned, (fault) => injected.push(fault), isOver.signal));
    }
    await Promise.all(running);
  })();
  await watched(options, clock, load, "", () => load.run(more), injected);
  isOver.abort();
  await faults;
  // Requests that a fault has sent itself may still be under way.
  while (load.live.length > 0 && !signal.aborted) await pause(clock, 20, signal);
  return { injected, poisoned: injector.poisoned };
}

/** Shows how a pass goes while it does. */
async function watched(
  { scenario, progress }: RunOptions,
  clock: Clock,
  load: Load,
  what: string,
  work: () => Promise<void>,
  injected: readonly InjectedFault[] = [],
): Promise<void> {
  const isOver = new AbortController();
  const show = async () => {
    for (let tokensBefore = 0; !isOver.signal.aborted;) {
      await pause(clock, PROGRESS_EVERY_MS, isOver.signal);
      const tokens = load.records.reduce((sum, { arrivals }) => sum + arrivals.length, 0);
      const ended = load.records.filter(({ endedMs }) => endedMs !== undefined).length;
      const rate = Math.round(((tokens - tokensBefore) * 1000) / PROGRESS_EVERY_MS);
      tokensBefore = tokens;
      const last = injected.at(-1);
      const struck = `${injected.length} faults${last === undefined ? "" : ` (${last.kind} ${last.target})`}`;
      const faults = what === "" ? struck : what;
      progress(`${scenario.name}: ${ended} requests, ${load.live.length} under way, ${faults}, ${rate} tokens/s`);
    }
  };
  const showing = show();
  try {
    await work();
  } finally {
    isOver.abort();
    await showing;
  }
}

function checkInterrupted(signal: AbortSignal): void {
  if (signal.aborted) throw new RallyError("cancelled", "interrupted");
}
