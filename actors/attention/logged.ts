import type { LogEntry } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { readLogEvent, isEnd } from "../protocol/decode.ts";

/** What a request's token log says to whoever takes the request on. */
export interface Logged {
  /** Seq of the last entry; 0 for an empty log. */
  readonly lastSeq: number;
  /** All output tokens so far. */
  readonly tokenIds: readonly number[];
  readonly hasEnded: boolean;
  /**
   * Owners that took the request over, left no token and did not give it back: claims since the last token, less those given
   * back. -1 if the first owner, which claims nothing, has given it back.
   */
  readonly numIdleClaims: number;
  /** Fingerprint of the request that was logged; undefined as long as no owner has said. */
  readonly request: string | undefined;
  /** Entries that are no message of ours, or of another request: anybody can publish to the subject. */
  readonly numForeign: number;
}

/** RallyError `internal` if the log contradicts itself: nothing may be appended to it but an ending. */
export function readLogged(entries: readonly LogEntry[], requestId: string): Logged {
  const tokenIds: number[] = [];
  let request: string | undefined;
  let [hasEnded, numIdleClaims, numForeign] = [false, 0, 0];
  for (const { payload } of entries) {
    const event = readLogEvent(payload);
    if (event?.requestId !== requestId) numForeign++;
    else if (isEnd(event)) hasEnded = true;
    else if (event.index !== tokenIds.length) {
      const message = `token log of ${requestId} jumps from token ${tokenIds.length} to ${event.index}`;
      throw new RallyError("internal", message, { requestId, index: event.index, expected: tokenIds.length });
    } else {
      request ??= event.request;
      for (const id of event.ids) tokenIds.push(id);
      numIdleClaims = event.ids.length > 0 ? 0 : numIdleClaims + (event.left === true ? -1 : 1);
    }
  }
  return { lastSeq: entries.at(-1)?.seq ?? 0, tokenIds, hasEnded, numIdleClaims, request, numForeign };
}
