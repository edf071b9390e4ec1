import { encode } from "../../infra/codec.ts";
import type { DurableLog } from "../../infra/durable.ts";
import type { WireError } from "../../infra/errors.ts";
import { readLogEvent, isEnd } from "../protocol/decode.ts";
import type { EndEvent } from "../protocol/messages.ts";
import type { Subjects } from "../protocol/subjects.ts";

export type UnservedEnding = { readonly kind: "failed"; readonly error: WireError } | { readonly kind: "cancelled" };

/**
 * Ends a request that this actor does not own, unless its log has an ending already; with "if-empty", also unless anybody has
 * begun it. RallyError `stale-owner` if somebody writes at the same moment: then it is theirs.
 */
export async function endUnserved(
  where: {
    readonly log: DurableLog;
    readonly subjects: Subjects;
    readonly attentionId: string;
    readonly requestId: string;
  },
  ending: UnservedEnding,
  when: "always" | "if-empty",
): Promise<void> {
  const { log, subjects, attentionId: owner, requestId } = where;
  const subject = subjects.tokens(requestId);
  const entries = await log.read(subject);
  const events = entries.map(({ payload }) => readLogEvent(payload));
  if (events.some((event) => event?.requestId === requestId && isEnd(event))) return;
  if (when === "if-empty" && entries.length > 0) return;
  let outputTokens = 0;
  for (const event of events) {
    // A client checks the count against the tokens it has: those up to the first that do not follow.
    if (event?.kind === "tokens" && event.requestId === requestId && event.index === outputTokens) {
      outputTokens += event.ids.length;
    }
  }
  const end: EndEvent = { ...ending, requestId, owner, usage: { promptTokens: 0, outputTokens } };
  await log.append(subject, encode(end), {
    id: `${requestId}:end:${owner}`,
    expectedLastSeq: entries.at(-1)?.seq ?? 0,
  });
}
