import type { ShardSpec } from "../../models/stages.ts";
import type { ExpertSettings, ExpertStats, TraceEvent } from "../protocol/role.ts";
import type { ThreadReport } from "../protocol/role-thread.ts";

/** What the experts' thread is started with. */
export interface ExpertWorkerData {
  readonly settings: ExpertSettings;
  /** What the placement says that the shard holds. */
  readonly spec: ShardSpec;
}

/** Control thread to the experts' thread. */
export type ToExpert = { readonly kind: "stats" } | { readonly kind: "trace" } | { readonly kind: "drain" };

/** The experts' thread to the control thread. */
export type FromExpert =
  | ThreadReport
  | { readonly kind: "stats"; readonly stats: Omit<ExpertStats, "rssBytes"> }
  | { readonly kind: "trace"; readonly events: readonly TraceEvent[] };
