import type { FaultKind } from "./faults.ts";

/** A fault that struck, or could not. Times in milliseconds since the load began. */
export interface InjectedFault {
  readonly id: number;
  readonly kind: FaultKind;
  /** Slot, or what else was hit. */
  readonly target: string;
  readonly plannedMs: number;
  readonly struckMs: number;
  /** When its cause was over; undefined until then. */
  healedMs: number | undefined;
  /** Why it did not strike. */
  skipped: string | undefined;
  /** What else there is to tell. */
  note: string | undefined;
}
