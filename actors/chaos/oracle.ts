import type { LogEntry } from "../../infra/durable.ts";
import type { ErrorCode } from "../../infra/errors.ts";
import { readLogEvent, isEnd } from "../protocol/decode.ts";
import type { RequestRecord } from "./request-record.ts";

export type Flaw = "differing" | "lost" | "duplicated" | "unended" | "failed";

/** One promise broken by one request. */
export interface Violation {
  readonly flaw: Flaw;
  readonly requestId: string;
  readonly text: string;
}

/** What the token log says of one request, beside what it should say. */
export interface CheckedLog {
  readonly ids: readonly number[];
  readonly violations: readonly Violation[];
  readonly ending: "completed" | "cancelled" | ErrorCode | undefined;
  /** Who wrote which tokens, in the order of the log. */
  readonly owners: readonly { readonly owner: string; readonly from: number; readonly to: number }[];
}

/** A moment between the ending in the log and its arrival. */
const LATE_MS = 1_000;

/**
 * Reads a request's log as strictly as a subscriber may: each index once, in order, `expected` token for token, then exactly
 * one ending and nothing more. Without `expected`, whatever tokens there are count as right.
 */
export function checkLog(
  requestId: string,
  entries: readonly LogEntry[],
  expected: readonly number[] | undefined,
): CheckedLog {
  const ids: number[] = [];
  const violations: Violation[] = [];
  const owners: { owner: string; from: number; to: number }[] = [];
  let ending: CheckedLog["ending"];
  const found = (flaw: Flaw, text: string) => {
    // One of each kind tells enough.
    if (!violations.some((known) => known.flaw === flaw)) violations.push({ flaw, requestId, text });
  };
  for (const { payload } of entries) {
    // Damaged on its way into the log: what it said has to come in another one.
    if (payload.length === 0) continue;
    const event = readLogEvent(payload);
    if (event?.requestId !== requestId) {
      found("differing", "its log holds an entry that is no message about it");
      continue;
    }
    if (ending !== undefined) found("duplicated", `after its ending (${ending}) the log goes on with ${event.kind}`);
    if (isEnd(event)) {
      ending = event.kind === "failed" ? event.error.code : event.kind;
      const { outputTokens } = event.usage;
      if (outputTokens > ids.length)
        found("lost", `its ending counts ${outputTokens} tokens, the log has ${ids.length}`);
      if (outputTokens < ids.length)
        found("duplicated", `its ending counts ${outputTokens} tokens, the log has ${ids.length}`);
      continue;
    }
    if (event.index > ids.length) found("lost", `the log jumps from token ${ids.length} to ${event.index}`);
    if (event.index < ids.length && event.ids.length > 0)
      found("duplicated", `token ${event.index} is in the log again after token ${ids.length - 1}`);
    const last = owners.at(-1);
    if (last?.owner === event.owner) last.to = event.index + event.ids.length;
    else owners.push({ owner: event.owner, from: event.index, to: event.index + event.ids.length });
    for (const [offset, id] of event.ids.entries()) ids[event.index + offset] = id;
  }
  if (expected !== undefined) compare(ids, expected, ending, found);
  if (ending === undefined) found("unended", `its log ends after ${ids.length} tokens without an ending`);
  return { ids, violations, ending, owners };
}

/** What the client saw, beside the same. */
export function checkClient(record: RequestRecord, expected: readonly number[], logged: CheckedLog): Violation[] {
  const { requestId, ending, ids, endedMs, deadlineMs, misplaced } = record;
  const violations: Violation[] = [];
  const found = (flaw: Flaw, text: string) => void violations.push({ flaw, requestId, text });
  if (misplaced > 0) found("duplicated", `the client saw ${misplaced} tokens out of their order`);
  if (ending === undefined || endedMs === undefined) {
    found("unended", `the client saw ${ids.length} tokens and no ending`);
  } else if (endedMs > deadlineMs + LATE_MS) {
    found("unended", `the client saw its ending ${Math.round(endedMs - deadlineMs)} ms after the deadline`);
  }
  const at = firstDifference(ids, expected);
  if (at < Math.min(ids.length, expected.length) || ids.length > expected.length) {
    found("differing", `the client saw token ${at} as ${ids[at]}, without faults it is ${expected[at] ?? "none"}`);
  } else if (ending === "completed" && ids.length < expected.length) {
    found("lost", `the client saw ${ids.length} tokens, without faults there are ${expected.length}`);
  }
  if (ending !== undefined && ending !== "completed" && logged.ending === "completed") {
    found("failed", `the log has it completed, the client was told: ${record.endingText ?? ending}`);
  }
  return violations;
}

function compare(
  ids: readonly number[],
  expected: readonly number[],
  ending: CheckedLog["ending"],
  found: (flaw: Flaw, text: string) => void,
): void {
  for (const [i, id] of ids.entries()) {
    // A hole has been reported as such.
    if (id === undefined || id === expected[i]) continue;
    const without = i < expected.length ? `it is ${expected[i]}` : `the stream ends after ${expected.length} tokens`;
    found("differing", `token ${i} is ${id}; without faults ${without}`);
    break;
  }
  if (ending === "completed" && ids.length < expected.length) {
    found("lost", `completed after ${ids.length} tokens; without faults there are ${expected.length}`);
  }
}

function firstDifference(a: readonly number[], b: readonly number[]): number {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  return at;
}
