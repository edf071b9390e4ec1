import { crc32 } from "node:zlib";
import { RallyError } from "./errors.ts";
import type { JetStream } from "./nats-jetstream.ts";
import type { NatsMessage } from "./nats-link.ts";

/**
 * CRC-32 of the payload, in eight hex digits, beside every message that JetStream keeps: TCP's own checksum lets one broken
 * segment in 65,536 pass, and a stream would keep what came of it.
 */
export const CHECK_HEADER = "Rally-Check";
export const ID_HEADER = "Nats-Msg-Id";

const EMPTY = new Uint8Array(0);
const TRIES = 12;

export function checkOf(payload: Uint8Array): string {
  return crc32(payload).toString(16).padStart(8, "0");
}

/** Whether a message certainly is what was sent. One without a checksum may be, or has lost it: `readStored` tells. */
export function isIntact(message: NatsMessage): boolean {
  return message.header(CHECK_HEADER) === checkOf(message.payload);
}

export interface Stored {
  readonly message: NatsMessage;
  /** It is kept damaged: what is handed out of it is empty. */
  readonly isDamaged: boolean;
}

/**
 * What a stream keeps at `seq`, whatever happens on the way: asked for until it comes with a checksum that fits, or twice the
 * same without one, which is then not the way's doing. Undefined if there is nothing. RallyError `corrupted` if no two answers
 * agree.
 */
export async function readStored(jetStream: JetStream, stream: string, seq: number): Promise<Stored | undefined> {
  const answers = new Set<string>();
  for (let tries = 0; tries < TRIES; tries++) {
    const message = await readOnce(jetStream, stream, seq);
    if (message === "unclear") continue;
    if (message !== undefined && isIntact(message)) return { message, isDamaged: false };
    const check = message?.header(CHECK_HEADER);
    const answer = `${message && checkOf(message.payload)} ${check}`;
    if (!answers.has(answer)) answers.add(answer);
    else if (message === undefined) return undefined;
    // Whoever leaves no checksum is taken at their word.
    else if (check === undefined) return { message, isDamaged: false };
    else return { message: emptied(message), isDamaged: true };
  }
  throw new RallyError("corrupted", `${stream} could not be read at ${seq}: each answer was another`, { stream, seq });
}

/**
 * The first message of a subject behind `afterSeq`, and where it is. That there is none, or none for a while, may be the answer to
 * a question that was damaged on its way, and is taken for true when it is said twice. RallyError `corrupted` as above.
 */
export async function readNext(
  jetStream: JetStream,
  stream: string,
  { subject, afterSeq }: { readonly subject: string; readonly afterSeq: number },
): Promise<(Stored & { readonly seq: number }) | undefined> {
  const answers = new Set<number>();
  for (let tries = 0; tries < TRIES; tries++) {
    const message = await unlessUnclear(() => jetStream.get(stream, { seq: afterSeq + 1, next_by_subj: subject }));
    if (message === "unclear") continue;
    const seq = message === undefined ? Infinity : Number(message.header("Nats-Sequence"));
    if (seq === afterSeq + 1 || answers.has(seq)) {
      if (message === undefined) return undefined;
      if (isIntact(message)) return { seq, message, isDamaged: false };
      const stored = await readStored(jetStream, stream, seq);
      // Gone meanwhile.
      if (stored === undefined) continue;
      return { seq, ...stored };
    }
    if (seq > afterSeq) answers.add(seq);
  }
  throw new RallyError("corrupted", `${stream} could not be read behind ${afterSeq}`, { stream, seq: afterSeq });
}

async function readOnce(
  jetStream: JetStream,
  stream: string,
  seq: number,
): Promise<NatsMessage | "unclear" | undefined> {
  const message = await unlessUnclear(() => jetStream.get(stream, { seq }));
  if (message === undefined || message === "unclear") return message;
  return message.header("Nats-Sequence") === String(seq) ? message : "unclear";
}

/** Unclear if the question was damaged on its way. */
async function unlessUnclear<T>(question: () => Promise<T>): Promise<T | "unclear"> {
  try {
    return await question();
  } catch (error) {
    if (RallyError.from(error).code === "corrupted") return "unclear";
    throw error;
  }
}

function emptied(message: NatsMessage): NatsMessage {
  const { subject, reply, status } = message;
  return { subject, payload: EMPTY, reply, status, noResponders: false, header: (name) => message.header(name) };
}
