import type { ErrorCode, RallyError } from "../../infra/errors.ts";

/** Refusals that pass by themselves: the expert is busy, starting, leaving, has not yet heard of our placement, or got broken bytes. */
const PASSING: ReadonlySet<ErrorCode> = new Set([
  "overloaded",
  "stale-epoch",
  "deadline-exceeded",
  "closed",
  "corrupted",
]);
/** Any other refusal is believed when it comes for the third time: a replica may be ill. */
export const MAX_REFUSALS = 3;
const REFUSED_RETRY_MS = 50;
const MAX_RETRY_AFTER_MS = 5_000;
/** Silence this often in a row is taken for slowness, and each further wait is twice the one before. */
const PATIENT_AFTER = 3;
const MAX_DOUBLINGS = 4;

export function isPassing(code: ErrorCode): boolean {
  return PASSING.has(code);
}

/** When to ask again after a refusal; an expert may say so itself. Milliseconds. */
export function retryAfterMs(error: Pick<RallyError, "fields">): number {
  const wanted = Number(error.fields["retryAfterMs"] ?? REFUSED_RETRY_MS);
  return Number.isFinite(wanted) ? Math.min(Math.max(wanted, 1), MAX_RETRY_AFTER_MS) : REFUSED_RETRY_MS;
}

/**
 * How long to wait for an answer after `numSilences` attempts without one. Soon again at first, because another replica may
 * be well; then ever more patient, so that experts that are merely slow are not buried under repeats and get to answer.
 */
export function patienceMs(dispatchTimeoutMs: number, numSilences: number): number {
  return dispatchTimeoutMs * 2 ** Math.min(Math.max(0, numSilences - PATIENT_AFTER), MAX_DOUBLINGS);
}
