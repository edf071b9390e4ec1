import { percentiles, type Percentiles } from "./figures.ts";

/** How one request of an open-loop load went. Milliseconds since the load began. */
export interface Outcome {
  readonly sentAt: number;
  /** Undefined without a first token. */
  readonly firstTokenAt: number | undefined;
  readonly endedAt: number;
  /** `late`: accepted, but not done by its deadline. */
  readonly how: "completed" | "refused" | "late" | "failed";
  readonly outputTokens: number;
}

/** What came of one multiple of the sustainable load. */
export interface GoodputPoint {
  readonly factor: number;
  readonly offeredPerSecond: number;
  readonly sent: number;
  readonly completed: number;
  readonly refused: number;
  readonly late: number;
  readonly failed: number;
  /** Output tokens per second of requests that completed before their deadline. */
  readonly goodput: number;
  /** Of completed requests. */
  readonly ttftMs: Percentiles;
  /** From sending to the refusal. */
  readonly refusalMs: Percentiles;
}

/**
 * Counts over requests that ended between `fromMs` and `toMs`: the time before is that in which the deployment fills up, and
 * after it nothing is sent any more.
 */
export function pointOf(
  load: { readonly factor: number; readonly offeredPerSecond: number },
  outcomes: readonly Outcome[],
  { fromMs, toMs }: { readonly fromMs: number; readonly toMs: number },
): GoodputPoint {
  const within = outcomes.filter(({ endedAt }) => endedAt > fromMs && endedAt <= toMs);
  const those = (how: Outcome["how"]) => within.filter((outcome) => outcome.how === how);
  const [completed, refused] = [those("completed"), those("refused")];
  const tokens = completed.reduce((sum, { outputTokens }) => sum + outputTokens, 0);
  return {
    ...load,
    sent: outcomes.filter(({ sentAt }) => sentAt > fromMs && sentAt <= toMs).length,
    completed: completed.length,
    refused: refused.length,
    late: those("late").length,
    failed: those("failed").length,
    goodput: (tokens * 1000) / (toMs - fromMs),
    ttftMs: percentiles(
      completed.flatMap(({ sentAt, firstTokenAt }) => (firstTokenAt === undefined ? [] : [firstTokenAt - sentAt])),
    ),
    refusalMs: percentiles(refused.map(({ sentAt, endedAt }) => endedAt - sentAt)),
  };
}
