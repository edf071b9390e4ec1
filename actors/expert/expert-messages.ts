import type { ExpertStats, TraceEvent } from "../protocol/role.ts";
import type { ThreadReport } from "../protocol/role-thread.ts";

/** Control thread to the experts' thread. */
export type ToExpert =
  | { readonly kind: "epoch"; readonly epoch: number }
  | { readonly kind: "stats" }
  | { readonly kind: "trace" }
  | { readonly kind: "drain" };

/** The experts' thread to the control thread. */
export type FromExpert =
  | ThreadReport
  | { readonly kind: "stats"; readonly stats: Omit<ExpertStats, "rssBytes"> }
  | { readonly kind: "trace"; readonly events: readonly TraceEvent[] };
