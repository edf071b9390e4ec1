import type { WireError } from "../../infra/errors.ts";
import type { AttentionSettings, AttentionStats, TraceEvent } from "../protocol/role.ts";
import type { ThreadReport } from "../protocol/role-thread.ts";
import type { Placed } from "./placed-ffn.ts";
import type { EngineToken } from "./sequence.ts";
import type { EngineRequest } from "./sequence.ts";

/** What the engine's thread is started with. */
export interface EngineWorkerData {
  readonly settings: AttentionSettings;
  /** "local" computes the experts in the same thread: one process without NATS. */
  readonly ffn: "remote" | "local";
  /** Threads inside one run of a graph. */
  readonly numThreads: number;
  /** The same for dense layers and the head, while whose graphs run the experts have nothing to do. */
  readonly numThreadsAlone: number;
}

/** Control thread to engine thread. */
export type ToEngine =
  | { readonly kind: "admit"; readonly request: EngineRequest }
  | { readonly kind: "release"; readonly key: number }
  | { readonly kind: "placement"; readonly placed: Placed }
  | { readonly kind: "stats" }
  | { readonly kind: "trace" }
  | { readonly kind: "close" };

/** The engine thread's part of the statistics; the control thread knows the rest. */
type EngineStats = Omit<AttentionStats, "role" | "id" | "waitingSequences" | "rssBytes">;

/** Engine thread to control thread. */
export type FromEngine =
  | ThreadReport
  | { readonly kind: "tokens"; readonly tokens: readonly EngineToken[] }
  | { readonly kind: "sequenceFailed"; readonly key: number; readonly error: WireError }
  /** What a placement needs is there. */
  | { readonly kind: "placed" }
  | { readonly kind: "stats"; readonly stats: EngineStats }
  | { readonly kind: "trace"; readonly events: readonly TraceEvent[] };
