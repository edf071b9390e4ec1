import type { Durable, DurableLog, WorkQueue } from "../../infra/durable.ts";
import type { Subjects } from "./subjects.ts";

/** An owner that was silent for this long has lost its requests; with a prefill, a stream goes on within 3 s of its death. */
export const ACK_WAIT_MS = 1_200;

const MAX_REQUESTS = 1_000;
const MAX_REQUEST_BYTES = 4 << 20;
const TOKEN_LOG_AGE_MS = 60 * 60 * 1000;
const TOKEN_LOG_BYTES = 1 << 30;

export function openRequestQueue(durable: Durable, subjects: Subjects): Promise<WorkQueue> {
  return durable.queue({
    name: subjects.requestStream,
    subject: subjects.request,
    maxJobs: MAX_REQUESTS,
    maxJobBytes: MAX_REQUEST_BYTES,
    ackWaitMs: ACK_WAIT_MS,
  });
}

export function openTokenLog(durable: Durable, subjects: Subjects): Promise<DurableLog> {
  return durable.log({
    name: subjects.tokenStream,
    subjects: subjects.tokens("*"),
    maxAgeMs: TOKEN_LOG_AGE_MS,
    maxBytes: TOKEN_LOG_BYTES,
  });
}

/** Removes everything that a deployment keeps on the server. */
export async function removeStreams(durable: Durable, subjects: Subjects): Promise<void> {
  await durable.remove("queue", subjects.requestStream);
  await durable.remove("log", subjects.tokenStream);
  await durable.remove("keyValue", subjects.placementBucket);
}
