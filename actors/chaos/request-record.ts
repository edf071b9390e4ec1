import type { ErrorCode } from "../../infra/errors.ts";

/** What a client saw of one request. Times in milliseconds since its pass began. */
export interface RequestRecord {
  readonly requestId: string;
  /** Which of the different requests of the load it is. */
  readonly pool: number;
  readonly startedMs: number;
  readonly deadlineMs: number;
  /** When token i arrived; the client hands out each index once. */
  readonly arrivals: number[];
  readonly ids: number[];
  /** Tokens whose index was not the next. */
  misplaced: number;
  /** Why it was not taken at once; it was sent again under the same id each time. */
  readonly refusals: ErrorCode[];
  endedMs: number | undefined;
  ending: "completed" | ErrorCode | undefined;
  /** What the error said. */
  endingText: string | undefined;
}

export function newRecord(
  given: Pick<RequestRecord, "requestId" | "pool" | "startedMs"> & { readonly allowedMs: number },
): RequestRecord {
  const { requestId, pool, startedMs, allowedMs } = given;
  return {
    requestId,
    pool,
    startedMs,
    deadlineMs: startedMs + allowedMs,
    arrivals: [],
    ids: [],
    misplaced: 0,
    refusals: [],
    endedMs: undefined,
    ending: undefined,
    endingText: undefined,
  };
}
