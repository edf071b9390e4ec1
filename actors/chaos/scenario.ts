import type { ErrorCode } from "../../infra/errors.ts";
import type { SamplingParams } from "../../models/sampling/params.ts";
import type { Topology } from "../supervisor/topology.ts";
import type { Fault, FaultKind } from "./faults.ts";

export interface Weighted {
  readonly weight: number;
}

/** Tokens, both ends included. */
export interface LengthRange extends Weighted {
  readonly min: number;
  readonly max: number;
}

export type Arrival =
  /** So many clients, each with one request at a time. */
  | { readonly kind: "closed"; readonly concurrency: number }
  /** Whatever the deployment does, so many requests a second. */
  | { readonly kind: "poisson"; readonly perSecond: number };

export interface LoadPlan {
  readonly arrival: Arrival;
  /** At least so many under faults; more while counted faults are still to come. */
  readonly requests: number;
  /** Instead of `requests`: as many as come in this time. */
  readonly durationMs: number | undefined;
  /** Different requests; each has its fault-free stream, and they come round again. */
  readonly distinct: number;
  readonly promptTokens: readonly LengthRange[];
  readonly outputTokens: readonly LengthRange[];
  readonly sampling: readonly (Weighted & { readonly params: Partial<SamplingParams> })[];
  readonly deadlineMs: number;
}

/** When a fault strikes: at `atMs`, or from then on again and again. */
export interface Timing {
  readonly atMs: number;
  readonly everyMs: number | undefined;
  /** Gaps drawn from an exponential distribution whose mean is `everyMs`, instead of being `everyMs`. */
  readonly isRandom: boolean;
  /** Without it and with `everyMs`: until the load is over. */
  readonly count: number | undefined;
}

export interface FaultPlan {
  readonly timing: Timing;
  /** More than one: each time one of them. */
  readonly mix: readonly (Weighted & { readonly fault: Fault })[];
}

/** What must hold, beyond the promises that always must. */
export interface Hold {
  /** Longest gap between two tokens of any stream that was live, per kind of fault. Milliseconds. */
  readonly recoveryMs: Partial<Record<FaultKind, { readonly p50?: number; readonly p99?: number }>>;
  readonly throughputRatio: number | undefined;
  /** Typed errors that a request may end with. */
  readonly allowErrors: readonly ErrorCode[];
  /** Everything back to where it was, so long after the last request. */
  readonly idleWithinMs: number;
}

export interface Scenario {
  readonly name: string;
  readonly description: string;
  readonly file: string;
  readonly seed: number;
  readonly topology: Partial<Omit<Topology, "deployment" | "modelDir">>;
  /** Whether activations may go through shared memory, where network faults only see the doorbell. */
  readonly sharedMemory: boolean;
  readonly load: LoadPlan;
  readonly faults: readonly FaultPlan[];
  readonly hold: Hold;
}
