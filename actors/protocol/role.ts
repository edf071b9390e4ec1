import type { WireError } from "../../infra/errors.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { Provider } from "../../infra/session.ts";
import type { WireDtype } from "../../infra/tensor.ts";

/**
 * How the supervisor and the processes it starts speak: settings as JSON in the environment variable RALLY_ROLE, then
 * commands and reports over the child's IPC channel. A child whose channel closes has lost its supervisor and ends.
 */
interface CommonSettings {
  readonly id: string;
  readonly deployment: string;
  readonly nats: NatsSettings;
  readonly modelDir: string;
  /** What its graphs run on. */
  readonly provider: Provider;
  /** Collect trace events, to be fetched with the `trace` command. */
  readonly trace: boolean;
  /** Where its threads are to run; left out: wherever there is room. */
  readonly pinned?: Pinned;
}

/** Cores as the kernel numbers them. */
export interface Pinned {
  /** The first for the thread that runs the graphs, the others for the threads of its graphs. */
  readonly compute: readonly number[];
  /** Everything else. */
  readonly control: readonly number[];
}

export interface AttentionSettings extends CommonSettings {
  readonly role: "attention";
  /** Sequences that hold KV slots at once. */
  readonly maxSequences: number;
  /** Tokens in the KV caches at once; left out: what 256 MiB hold, and no more than `maxSequences` can need. */
  readonly maxKvTokens?: number;
  /** Micro-batches in flight; "auto": m ≥ 2(1+Tc/Tf) from measured times (MegaScale-Infer §4.1). */
  readonly microBatches: number | "auto";
  /** Prompt tokens that one prefill pass takes at most, over all its sequences. */
  readonly prefillTokens: number;
  readonly wireDtype: Exclude<WireDtype, "i32">;
  /** A dispatch unanswered for this long is sent again. */
  readonly dispatchTimeoutMs: number;
  /** Token-log appends per second over all requests; tokens gather in between. */
  readonly appendsPerSecond: number;
}

export interface ExpertSettings extends CommonSettings {
  readonly role: "expert";
  /** Of the placement that says what the shard holds. */
  readonly epoch: number;
  readonly shard: number;
  /** Batches that may wait; more are refused with `overloaded`. */
  readonly maxWaitingBatches: number;
}

export type RoleSettings = AttentionSettings | ExpertSettings;

/** Sums since the process started; a reader takes differences over its window. Times in milliseconds. */
export interface AttentionStats {
  readonly role: "attention";
  readonly id: string;
  readonly elapsedMs: number;
  /** Time inside attention, head and sampling. */
  readonly busyMs: number;
  /** Time in which at least one micro-batch was under way and nothing was computed here. */
  readonly bubbleMs: number;
  /** Time in the state machines of the layer loop. */
  readonly machineMs: number;
  readonly passes: number;
  readonly decodeTokens: number;
  readonly prefillTokens: number;
  /** Dispatched messages, their answers' bytes and wire time (round trip less the expert's own time). */
  readonly hops: number;
  readonly hopBytes: number;
  readonly hopWireMs: number;
  readonly retries: number;
  readonly microBatches: number;
  readonly activeSequences: number;
  readonly waitingSequences: number;
  readonly kvTokens: number;
  /** Sequences that had to give way to older ones for want of room; they came back by prefilling. */
  readonly preemptions: number;
  readonly pendingDispatches: number;
  readonly creditsInUse: number;
  readonly rssBytes: number;
  readonly badMessages: number;
}

export interface ExpertStats {
  readonly role: "expert";
  readonly id: string;
  readonly shard: number;
  readonly elapsedMs: number;
  readonly busyMs: number;
  readonly batches: number;
  /** Runs of the graph; fewer than batches when waiting ones were coalesced. */
  readonly runs: number;
  readonly rows: number;
  readonly waitMs: number;
  readonly waiting: number;
  readonly rssBytes: number;
  readonly badMessages: number;
}

export type RoleStats = AttentionStats | ExpertStats;

/** One Chrome trace event ("X" complete events; times in microseconds since the Unix epoch). */
export interface TraceEvent {
  readonly name: string;
  readonly cat: string;
  readonly ph: "X" | "M";
  readonly ts: number;
  readonly dur: number;
  readonly pid: number;
  readonly tid: number;
  readonly args: Readonly<Record<string, string | number>>;
}

/** Supervisor to role. `drain`: finish what is held, take nothing new, then exit 0. */
export type RoleCommand = { readonly kind: "drain" } | { readonly kind: "stats" } | { readonly kind: "trace" };

/** Role to supervisor. */
export type RoleReport =
  | { readonly kind: "progress"; readonly text: string }
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly error: WireError }
  | { readonly kind: "warning"; readonly text: string }
  /** Not needed any more: it drains and ends, and nobody is to take its place. */
  | { readonly kind: "retired"; readonly why: string }
  | { readonly kind: "stats"; readonly stats: RoleStats }
  | { readonly kind: "trace"; readonly events: readonly TraceEvent[] };
