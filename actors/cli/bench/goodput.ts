import { SeededRandom } from "../../../infra/chaos/seeded.ts";
import type { Clock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import type { RallyClient } from "../../client/rally-client.ts";
import { type GoodputPoint, type Outcome, pointOf } from "./goodput-figures.ts";
import type { BenchRequest } from "./workload.ts";

export interface GoodputOptions {
  readonly client: RallyClient;
  readonly clock: Clock;
  /** Sent again and again, in turns. */
  readonly requests: readonly BenchRequest[];
  readonly maxTokens: number;
  /** A request that takes longer is worth nothing to whoever sent it. */
  readonly deadlineMs: number;
  /** Multiples of the sustainable load. */
  readonly factors: readonly number[];
  /** Measured time of each, after `FILL_MS`. */
  readonly seconds: number;
  readonly progress: (text: string) => void;
  /** Throws when the user wants no more. */
  readonly stopped: () => void;
}

export interface Goodput {
  /** Requests per second that a full deployment gets done when each one that ends is followed by another. */
  readonly sustainablePerSecond: number;
  readonly points: readonly GoodputPoint[];
}

/** Until as many requests are under way as will be for the rest of the time. */
const FILL_MS = 5_000;

/** First how many requests per second the deployment can do, then what it still does when more are sent. */
export async function goodputCurve(options: GoodputOptions): Promise<Goodput> {
  const { factors, progress, stopped, requests } = options;
  progress("finding the sustainable load");
  await closedLoad(options, 2_000);
  stopped();
  const window = { fromMs: FILL_MS, toMs: FILL_MS + options.seconds * 1000 };
  const saturated = pointOf({ factor: 1, offeredPerSecond: 0 }, await closedLoad(options, window.toMs), window);
  const sustainablePerSecond = saturated.completed / options.seconds;
  if (saturated.completed === 0) {
    throw new RallyError("deadline-exceeded", `none of ${requests.length} requests at once met its deadline`, {
      deadlineMs: options.deadlineMs,
    });
  }
  const points: GoodputPoint[] = [];
  for (const factor of factors) {
    stopped();
    const offeredPerSecond = factor * sustainablePerSecond;
    progress(`${factor} times the sustainable load: ${offeredPerSecond.toFixed(1)} requests per second`);
    const outcomes = await openLoad(options, {
      perSecond: offeredPerSecond,
      forMs: window.toMs,
      name: `load-${factor}`,
    });
    points.push(pointOf({ factor, offeredPerSecond }, outcomes, window));
  }
  return { sustainablePerSecond, points };
}

/** As many requests under way as there are in the list, for so long. */
async function closedLoad(options: GoodputOptions, forMs: number): Promise<Outcome[]> {
  const { clock, requests } = options;
  const startedAt = clock.elapsed();
  const outcomes: Outcome[] = [];
  await Promise.all(
    requests.map(async (request) => {
      while (clock.elapsed() - startedAt < forMs) outcomes.push(await outcomeOf(options, request, startedAt));
    }),
  );
  return outcomes;
}

/** Poisson arrivals, which do not wait for anybody. */
async function openLoad(
  options: GoodputOptions,
  { perSecond, forMs, name }: { readonly perSecond: number; readonly forMs: number; readonly name: string },
): Promise<Outcome[]> {
  const { clock, requests } = options;
  const random = new SeededRandom(0, name);
  const startedAt = clock.elapsed();
  const underWay: Promise<Outcome>[] = [];
  let due = random.exponential(1000 / perSecond);
  while (due < forMs) {
    const wait = due - (clock.elapsed() - startedAt);
    if (wait > 0) await new Promise<void>((resolve) => void clock.after(wait, resolve));
    const request = requests[underWay.length % requests.length] as BenchRequest;
    underWay.push(outcomeOf(options, request, startedAt));
    due += random.exponential(1000 / perSecond);
  }
  return await Promise.all(underWay);
}

async function outcomeOf(
  { client, clock, maxTokens, deadlineMs }: GoodputOptions,
  { tokenIds, seed }: BenchRequest,
  startedAt: number,
): Promise<Outcome> {
  const now = () => clock.elapsed() - startedAt;
  const sentAt = now();
  let firstTokenAt: number | undefined;
  const sampling = { ...DEFAULT_SAMPLING, temperature: 0, seed };
  const generation = client.generate({ prompt: tokenIds, maxTokens, sampling, deadlineMs });
  try {
    for await (const _ of generation) firstTokenAt ??= now();
    const { outputTokens } = await generation.result;
    return {
      sentAt,
      firstTokenAt,
      endedAt: now(),
      how: now() - sentAt <= deadlineMs ? "completed" : "late",
      outputTokens,
    };
  } catch (thrown) {
    const { code } = RallyError.from(thrown);
    const how = code === "overloaded" ? "refused" : code === "deadline-exceeded" ? "late" : "failed";
    return { sentAt, firstTokenAt, endedAt: now(), how, outputTokens: 0 };
  }
}
