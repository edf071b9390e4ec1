import type { Clock } from "../../infra/clock.ts";
import type { LogEntry } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { openTokenLog } from "../protocol/streams.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import type { ChaosTarget } from "./chaos-target.ts";
import type { Load } from "./load.ts";
import { quantile } from "./recovery.ts";
import type { RequestRecord } from "./request-record.ts";
import type { ExtraWork, PassFigures, Percentiles } from "./result.ts";

const READERS = 4;
const TRIES = 5;
const TRY_AGAIN_MS = 300;

/** Every request's token log, read once all is over: so that what came after an ending is seen too. */
export async function readLogs(
  target: ChaosTarget,
  requestIds: readonly string[],
  clock: Clock,
): Promise<ReadonlyMap<string, readonly LogEntry[]>> {
  const subjects = subjectsOf(target.deployment);
  const log = await again(clock, () => openTokenLog(target.connection.durable, subjects));
  const logs = new Map<string, readonly LogEntry[]>();
  const waiting = [...requestIds];
  await Promise.all(
    Array.from({ length: READERS }, async () => {
      for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
        const requestId = id;
        logs.set(requestId, await again(clock, () => log.read(subjects.tokens(requestId))));
      }
    }),
  );
  return logs;
}

export function figuresOf(load: Load, extraWork: ExtraWork): PassFigures {
  const { records, lastIssuedMs } = load;
  const arrivals = records.flatMap((record) => record.arrivals);
  const elapsedMs = Math.max(0, ...records.map(({ endedMs }) => endedMs ?? 0));
  // While the last requests end, the load is no longer what it was.
  const until = Math.min(elapsedMs, Math.max(lastIssuedMs, 1));
  const counted = arrivals.filter((at) => at <= until).length;
  const refusals: Record<string, number> = {};
  for (const code of records.flatMap((record) => record.refusals)) refusals[code] = (refusals[code] ?? 0) + 1;
  const gaps = records.flatMap(gapsOf);
  return {
    requests: records.length,
    tokens: arrivals.length,
    tokensPerSecond: (1000 * counted) / until,
    elapsedMs,
    firstTokenMs: percentiles(
      records.flatMap(({ arrivals: [first], startedMs }) => (first === undefined ? [] : [first - startedMs])),
    ),
    gapMs: { ...percentiles(gaps), max: gaps.reduce((most, gap) => Math.max(most, gap), 0) },
    refusals,
    extraWork,
  };
}

export function percentiles(values: readonly number[]): Percentiles {
  return { p50: quantile(values, 0.5), p99: quantile(values, 0.99) };
}

function gapsOf({ arrivals }: RequestRecord): number[] {
  return arrivals.slice(1).map((at, i) => at - (arrivals[i] ?? at));
}

async function again<T>(clock: Clock, work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (thrown) {
      if (tries === TRIES) throw RallyError.from(thrown);
      await new Promise<void>((resolve) => clock.after(TRY_AGAIN_MS, resolve));
    }
  }
}
