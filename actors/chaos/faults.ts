/** A number that a fault takes. */
export interface NumberSpec {
  readonly min: number;
  readonly max: number;
  readonly fallback: number;
}

interface FaultSpec {
  /** What it acts on. Process and network faults have a target. */
  readonly group: "process" | "network" | "broker" | "client" | "message";
  readonly about: string;
  readonly numbers: Readonly<Record<string, NumberSpec>>;
}

const HOUR = 3_600_000;
const duration = (fallback: number): NumberSpec => ({ min: 1, max: HOUR, fallback });
const probability = (fallback: number): NumberSpec => ({ min: 0, max: 1, fallback });

/** Every kind of fault and what it takes: the one list that scenarios, their checks and `rally chaos --list` go by. */
export const FAULTS = {
  kill: { group: "process", about: "SIGKILL; the supervisor starts it again", numbers: {} },
  stop: {
    group: "process",
    about: "SIGSTOP, then SIGCONT: alive, connected and silent",
    numbers: { durationMs: duration(1_000) },
  },
  "slow-down": {
    group: "process",
    about: "runs only one part in `factor` of the time",
    numbers: { durationMs: duration(3_000), factor: { min: 1.1, max: 1000, fallback: 10 } },
  },
  "memory-squeeze": {
    group: "process",
    about: "no address space beyond what it has and `headroomMiB`",
    numbers: { durationMs: duration(3_000), headroomMiB: { min: 0, max: 65_536, fallback: 16 } },
  },
  "clock-jump": {
    group: "process",
    about: "its wall clock steps by `jumpMs`, and back",
    numbers: { durationMs: duration(3_000), jumpMs: { min: -24 * HOUR, max: 24 * HOUR, fallback: 60_000 } },
  },
  drop: {
    group: "network",
    about: "loses messages",
    numbers: { durationMs: duration(2_000), probability: probability(0.1) },
  },
  delay: {
    group: "network",
    about: "everything arrives later",
    numbers: { durationMs: duration(2_000), delayMs: { min: 0, max: 60_000, fallback: 100 } },
  },
  jitter: {
    group: "network",
    about: "everything arrives later, by up to `delayMs`",
    numbers: { durationMs: duration(2_000), delayMs: { min: 0, max: 60_000, fallback: 100 } },
  },
  duplicate: {
    group: "network",
    about: "messages arrive twice",
    numbers: { durationMs: duration(2_000), probability: probability(0.2) },
  },
  reorder: {
    group: "network",
    about: "messages are overtaken by later ones",
    numbers: {
      durationMs: duration(2_000),
      probability: probability(0.2),
      delayMs: { min: 0, max: 60_000, fallback: 20 },
    },
  },
  corrupt: {
    group: "network",
    about: "a byte of a message's headers or payload changes",
    numbers: { durationMs: duration(2_000), probability: probability(0.05) },
  },
  throttle: {
    group: "network",
    about: "so many bytes a second and no more",
    numbers: { durationMs: duration(2_000), bytesPerSecond: { min: 1, max: 1e12, fallback: 200_000 } },
  },
  "half-open": {
    group: "network",
    about: "the server forgets the connections, the other end does not notice",
    numbers: { durationMs: duration(1_000) },
  },
  partition: {
    group: "network",
    about: "nothing passes, connections stay; afterwards everything held is delivered",
    numbers: { durationMs: duration(1_000) },
  },
  disconnect: { group: "network", about: "every connection is reset", numbers: {} },
  "broker-kill": {
    group: "broker",
    about: "SIGKILL to nats-server; it comes back on the same store",
    numbers: { durationMs: { min: 0, max: HOUR, fallback: 500 } },
  },
  "broker-restart": {
    group: "broker",
    about: "SIGTERM to nats-server; it comes back on the same store",
    numbers: { durationMs: { min: 0, max: HOUR, fallback: 500 } },
  },
  "broker-stop": {
    group: "broker",
    about: "SIGSTOP to nats-server, then SIGCONT",
    numbers: { durationMs: duration(1_000) },
  },
  "disk-full": {
    group: "broker",
    about: "nats-server can write no more to its store",
    numbers: { durationMs: duration(2_000) },
  },
  "slow-consumer": {
    group: "client",
    about: "a client that sends `requests` and stops reading for a while",
    numbers: { durationMs: duration(3_000), requests: { min: 1, max: 64, fallback: 4 } },
  },
  "client-crash": {
    group: "client",
    about: "a client process that sends `requests` is killed; another reads the rest",
    numbers: { durationMs: duration(500), requests: { min: 1, max: 64, fallback: 4 } },
  },
  "poison-message": {
    group: "message",
    about: "malformed and hostile messages on every subject",
    numbers: { messages: { min: 1, max: 100_000, fallback: 20 } },
  },
  "duplicate-delivery": {
    group: "message",
    about: "every request under way is put on the queue again",
    numbers: {},
  },
} as const satisfies Readonly<Record<string, FaultSpec>>;

export type FaultKind = keyof typeof FAULTS;
export const FAULT_KINDS = Object.keys(FAULTS) as readonly FaultKind[];
export type FaultGroup = FaultSpec["group"];

type KindOf<G extends FaultGroup> = {
  [K in FaultKind]: (typeof FAULTS)[K]["group"] extends G ? K : never;
}[FaultKind];

/** Which process or connection. What is left out is chosen at random, by the seed. */
export interface FaultTarget {
  readonly role?: "attention" | "expert" | "client";
  readonly shard?: number;
  readonly replica?: number;
  /** Of the attention actors. */
  readonly index?: number;
}

export type Direction = "both" | "to-server" | "from-server";

/** One fault as a scenario describes it. */
export type Fault<K extends FaultKind = FaultKind> = {
  [Kind in K]: {
    readonly kind: Kind;
    readonly target: FaultTarget;
    readonly numbers: Readonly<Record<keyof (typeof FAULTS)[Kind]["numbers"], number>>;
    /** Network faults: which way. */
    readonly direction: Direction;
    /** Network faults that act on messages: only those on subjects that match. */
    readonly subjects: string | undefined;
  };
}[K];

export type FaultOf<G extends FaultGroup> = Fault<KindOf<G>>;

/** How long a fault lasts; 0 if it only strikes. */
export function durationOf(fault: Fault): number {
  const { durationMs = 0 } = fault.numbers as { durationMs?: number };
  return durationMs;
}

export function isIn<G extends FaultGroup>(fault: Fault, group: G): fault is FaultOf<G> {
  return FAULTS[fault.kind].group === group;
}
