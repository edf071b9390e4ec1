import { damaged } from "./nats-answer.ts";
import { CHECK_HEADER, checkOf, ID_HEADER, readStored } from "./nats-checksum.ts";
import type { Echoes } from "./nats-echo.ts";
import type { JetStream } from "./nats-jetstream.ts";
import type { NatsHeaders } from "./nats-link.ts";

/** Copies that are stored damaged before it is given up. */
const MAX_COPIES = 16;
/**
 * A server that has just started may not have its streams yet. It says so where nobody listens ("no responders"), but an echo is
 * somebody who listens: then its silence says it.
 */
const HEARD_TIMEOUT_MS = 1_000;
/** Between the id of a message and what makes it another one: a copy, after one that was stored damaged. */
const COPY_MARK = "~";
const COPY = new RegExp(`${COPY_MARK}\\d+$`);

export interface ToStore {
  readonly stream: string;
  readonly subject: string;
  readonly payload: Uint8Array;
  readonly id: string;
  /** Headers beside id and checksum, of a copy that follows the damaged one at `afterSeq`, or of the first. */
  readonly headers: (afterSeq: number | undefined) => NatsHeaders;
  /** Saves asking what is kept, where what others publish on the subject is not too much to hear. */
  readonly echoes?: Echoes;
}

/**
 * Publishes until the stream keeps a copy that is whole. Those damaged stay in it and say nothing. To be repeated with the same
 * id when it fails: then it goes through the same copies.
 */
export async function storeWhole(
  jetStream: JetStream,
  { stream, subject, payload, id, headers, echoes }: ToStore,
): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
  const check = checkOf(payload);
  const timeoutMs = echoes === undefined ? undefined : HEARD_TIMEOUT_MS;
  let [copyId, afterSeq]: [string, number | undefined] = [id, undefined];
  let misplaced: number | undefined;
  for (let copies = 0; copies < MAX_COPIES;) {
    const echo = echoes?.expect(subject, copyId, check);
    const { seq, duplicate, isFirst } = await jetStream
      .publish(subject, payload, [[ID_HEADER, copyId], [CHECK_HEADER, check], ...headers(afterSeq)], timeoutMs)
      .finally(() => echo?.forget());
    // Of one that was published before, the echo is not what is kept.
    if (isFirst && echo?.isWhole() === true) return { seq, duplicate };
    const kept = await readStored(jetStream, stream, seq);
    // Whatever has become of its headers.
    if (kept?.isDamaged === false && checkOf(kept.message.payload) === check) return { seq, duplicate };
    const isOurs = kept?.message.header(ID_HEADER) === copyId;
    // A repeat under the same id says what it says.
    if (isOurs && !kept.isDamaged) return { seq, duplicate };
    if (!isOurs) {
      // The answer has named another place. If it does so twice, what was there is gone, as a job is that is done.
      if (misplaced === seq) return { seq, duplicate };
      misplaced = seq;
      continue;
    }
    if (!duplicate) copies++;
    [copyId, afterSeq] = [`${id}${COPY_MARK}${seq}`, seq];
  }
  throw damaged(`each of ${MAX_COPIES} copies of ${id}`);
}

/** What a message was stored under, whichever copy of it this is. */
export function originalId(id: string): string {
  return id.replace(COPY, "");
}
