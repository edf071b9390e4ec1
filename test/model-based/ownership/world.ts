/**
 * Who may write to one request's token log: a work queue that delivers again, two owners whose processes die, a log with a
 * fence and a duplicate window, and a network that loses, repeats, delays and reorders. Small enough to look at every state.
 *
 * What is left out because it adds nothing here: a paused owner is one that takes no step for a while, which is in every
 * interleaving anyway; a lost message or answer is one that never comes, or comes only with the next attempt, which has the
 * same id and content and so is the same message.
 */
export interface Rules {
  readonly numTokens: number;
  /** Copies of the request in the queue: two when a client has sent it again after the duplicate window. */
  readonly numJobs: number;
  /** Restarts of each owner. */
  readonly crashes: number;
  /** How often a job that was done comes back, because the server was killed before it had remembered. */
  readonly redeliveries: number;
  /** How often the duplicate window may pass. */
  readonly forgets: number;
  /** Whether a request may fail at its owner at any time. */
  readonly failures: boolean;
  /** How often owners give requests back as a drain does: they say so in the log, if nothing else is on its way there. */
  readonly givesBack: number;
  /** How often somebody else ends the request, as a cancel does that no owner heard. */
  readonly strangers: number;
  readonly maxLostOwners: number;
  /** Rules that a test takes away, or puts back as they once were. */
  readonly fence: boolean;
  readonly claim: boolean;
  /** What append ids are made of: the index alone, which two owners choose alike, or the index and the owner's name. */
  readonly ids: "index" | "owner";
  /** The queue delivers again what a silent owner holds. */
  readonly ackWait: boolean;
  /** A fenced owner leaves the job alone; else it takes the job off the queue. */
  readonly keepFencedJob: boolean;
}

export const PRODUCTION: Rules = {
  numTokens: 2,
  numJobs: 1,
  crashes: 1,
  redeliveries: 0,
  forgets: 0,
  strangers: 0,
  failures: true,
  givesBack: 1,
  maxLostOwners: 2,
  fence: true,
  claim: true,
  ids: "owner",
  ackWait: true,
  keepFencedJob: true,
};

/** `parked` is poison, `cancelled` the word of a stranger. */
type Ending = "completed" | "failed" | "parked" | "cancelled";

export interface Entry {
  readonly kind: "tokens" | "claim" | "left" | Ending;
  /** One process's one turn as owner. */
  readonly writer: string;
  readonly index: number;
  /** Tokens in it; for an ending, the whole output as its writer knows it. */
  readonly count: number;
  readonly id: string;
}

/** An append: entry and the seq it must follow. Seqs count from 1. */
export interface Append extends Entry {
  readonly expected: number;
}

export interface Job {
  readonly holder: "nobody" | "done" | number;
  readonly deliveries: number;
}

export interface Owner {
  readonly starts: number;
  readonly phase: "free" | "reading" | "claiming" | "owning" | "leaving";
  /** Copies of the request it has been given. */
  readonly jobs: readonly number[];
  /** How often the queue had delivered the first of them by then. */
  readonly delivery: number;
  readonly writer: string;
  /** Seq of the last entry, and number of tokens, that it knows of. */
  readonly seq: number;
  readonly index: number;
  /** Tokens generated but not yet sent. */
  readonly gathered: number;
  readonly sent: Append | null;
  readonly ending: Ending | null;
}

export interface State {
  readonly log: readonly Entry[];
  /** Entries up to this seq are out of the duplicate window. */
  readonly forgotten: number;
  readonly jobs: readonly Job[];
  readonly owners: readonly Owner[];
  /** Appends still on their way whose sender has given up, or died. */
  readonly orphans: readonly Append[];
  readonly redeliveries: number;
  readonly forgets: number;
  readonly strangers: number;
  readonly givesBack: number;
}

export type Action =
  | { readonly do: "pull"; readonly owner: number; readonly job: number }
  | { readonly do: "read" | "generate" | "store" | "answer"; readonly owner: number }
  | { readonly do: "fail" | "claimTimeout" | "giveBack" | "leaveTimeout" | "crash"; readonly owner: number }
  | { readonly do: "storeOrphan"; readonly orphan: number }
  | { readonly do: "expire" | "redeliver"; readonly job: number }
  | { readonly do: "forget" | "stranger" };

export interface Step {
  readonly action: Action;
  readonly next: State;
}

/** What happens by itself while nothing goes wrong, and the queue giving up on an owner that is gone. */
export const CALM: ReadonlySet<Action["do"]> = new Set(["pull", "read", "generate", "store", "answer", "expire"]);

export const OWNERS = ["a", "b"] as const;
export const isEnd = ({ kind }: Pick<Entry, "kind">): boolean =>
  kind !== "tokens" && kind !== "claim" && kind !== "left";
export const tokensIn = (log: readonly Entry[]): number =>
  log.reduce((sum, { kind, count }) => sum + (kind === "tokens" ? count : 0), 0);

export function keyOfAppend({ kind, id, writer, count, expected }: Append): string {
  return `${kind},${id},${writer},${count},${expected}`;
}
