import { RallyError } from "../../infra/errors.ts";

const RETRY_AFTER_MS = 1_000;

/** For a request with a deadline that cannot be met; by as much as it would be late, the sender should wait. */
export function tooLate(neededMs: number, leftMs: number): RallyError {
  return new RallyError("overloaded", "there is too much to do for it to be done by its deadline", {
    neededMs: Math.ceil(neededMs),
    retryAfterMs: Math.max(RETRY_AFTER_MS, Math.ceil(neededMs - leftMs)),
  });
}
