import { encode } from "../../infra/codec.ts";
import type { DurableLog } from "../../infra/durable.ts";
import { RallyError, type WireError } from "../../infra/errors.ts";
import { readLogEvent, isEnd } from "../protocol/decode.ts";
import type { EndEvent } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";

interface Where {
  readonly log: DurableLog;
  readonly subjects: Subjects;
  readonly attentionId: string;
  readonly requestId: string;
}

const NO_USAGE = { promptTokens: 0, outputTokens: 0 } as const;

export type UnservedEnding = { readonly kind: "failed"; readonly error: WireError } | { readonly kind: "cancelled" };

/** Ends a request of which nothing has been written yet; false if somebody has begun or ended it. */
export async function endUnbegun(where: Where, ending: UnservedEnding): Promise<boolean> {
  const end: EndEvent = { ...ending, requestId: where.requestId, owner: where.attentionId, usage: NO_USAGE };
  try {
    await append(where, end, 0);
    return true;
  } catch (thrown) {
    if (RallyError.from(thrown).code === "stale-owner") return false;
    throw thrown;
  }
}

/**
 * Ends a request that this actor does not own, unless its log has an ending already; with "if-empty", also unless anybody has
 * begun it; resolves with whether it did. RallyError `stale-owner` if somebody writes at the same moment: then it is theirs.
 */
export async function endUnserved(where: Where, ending: UnservedEnding, when: "always" | "if-empty"): Promise<boolean> {
  const { log, subjects, attentionId: owner, requestId } = where;
  const subject = subjects.tokens(requestId);
  const entries = await log.read(subject);
  const events = entries.map(({ payload }) => readLogEvent(payload));
  if (events.some((event) => event?.requestId === requestId && isEnd(event))) return false;
  if (when === "if-empty" && entries.length > 0) return false;
  let outputTokens = 0;
  for (const event of events) {
    // A client checks the count against the tokens it has: those up to the first that do not follow.
    if (event?.kind === "tokens" && event.requestId === requestId && event.index === outputTokens) {
      outputTokens += event.ids.length;
    }
  }
  const end: EndEvent = { ...ending, requestId, owner, usage: { promptTokens: 0, outputTokens } };
  await append(where, end, entries.at(-1)?.seq ?? 0);
  return true;
}

async function append({ log, subjects, requestId }: Where, end: EndEvent, expectedLastSeq: number): Promise<void> {
  const id = `${requestId}:end:${end.owner}`;
  await log.append(subjects.tokens(requestId), encode(end), { id, expectedLastSeq });
}
