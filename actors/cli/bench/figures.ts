/** When one request was sent and when each of its tokens arrived. Milliseconds of one monotonic clock. */
export interface TokenTimes {
  readonly sentAt: number;
  readonly arrivals: readonly number[];
}

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export interface Figures {
  /** Decode throughput: tokens of all requests per second while every request was decoding. */
  readonly tokensPerSecond: number;
  /** Time per output token after the first, a mean per request. */
  readonly tpotMs: Percentiles;
  readonly ttftMs: Percentiles;
}

/** Figures of one round of requests sent together. */
export function figuresOf(requests: readonly TokenTimes[]): Figures {
  const decoding = requests.filter(({ arrivals }) => arrivals.length >= 2);
  return {
    tokensPerSecond: windowThroughput(decoding),
    tpotMs: percentiles(
      decoding.map(({ arrivals }) => ((arrivals.at(-1) ?? 0) - (arrivals[0] ?? 0)) / (arrivals.length - 1)),
    ),
    ttftMs: percentiles(
      requests.flatMap(({ sentAt, arrivals: [first] }) => (first === undefined ? [] : [first - sentAt])),
    ),
  };
}

/** Medians over rounds of throughput; percentiles over all rounds' requests. */
export function figuresOfRounds(rounds: readonly (readonly TokenTimes[])[]): Figures {
  const all = figuresOf(rounds.flat());
  return { ...all, tokensPerSecond: median(rounds.map((round) => figuresOf(round).tokensPerSecond)) };
}

/**
 * Counts between the moment in which the last request got its first token and the moment in which the first request ended:
 * neither prefill nor a thinning batch is in it.
 */
function windowThroughput(requests: readonly TokenTimes[]): number {
  const from = Math.max(...requests.map(({ arrivals }) => arrivals[0] ?? 0));
  const to = Math.min(...requests.map(({ arrivals }) => arrivals.at(-1) ?? 0));
  if (!(to > from)) return 0;
  const tokens = requests.reduce((sum, { arrivals }) => sum + arrivals.filter((at) => at > from && at <= to).length, 0);
  return (tokens * 1000) / (to - from);
}

export function percentiles(values: readonly number[]): Percentiles {
  return { p50: percentile(values, 0.5), p99: percentile(values, 0.99) };
}

/** Nearest rank; 0 of nothing. */
function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  if (sorted.length % 2 === 1) return sorted[Math.floor(middle)] ?? 0;
  return ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}
