import { RallyError } from "../../infra/errors.ts";
import type { SamplingParams } from "../../models/sampling/params.ts";
import { checkGenerateRequest } from "../protocol/decode.ts";
import type { GenerateRequest } from "../protocol/messages.ts";

export interface GenerateOptions {
  /** Text, or token ids taken as they are. Text with half a surrogate pair is refused: it has no UTF-8. */
  readonly prompt: string | readonly number[];
  readonly maxTokens: number;
  /** What is left out has its default: temperature 0.8, topP 0.95, seed 0. */
  readonly sampling?: Partial<SamplingParams>;
  /** At most 4, each 1 … 200 characters; the text ends before the first that appears. */
  readonly stop?: readonly string[];
  /** Alternatives reported per token; 0 is the chosen token's own logprob only. */
  readonly logprobs?: number;
  /** From now until the request has ended, one way or another. 10 minutes if left out. */
  readonly deadlineMs?: number;
  /**
   * Cancelled when nobody has followed it for so long, wherever its tokens go: an iteration that is left, a program that ends or
   * loses its connection. From 3,000; never if left out.
   */
  readonly idleLimitMs?: number;
  /** The same id twice within two minutes is one request: its answer is followed, not made again. */
  readonly requestId?: string;
}

const DEFAULT_DEADLINE_MS = 600_000;
const MAX_DEADLINE_MS = 7 * 24 * 3_600_000;

/** The message for some options. RallyError `bad-request` for what no deployment would take, as a deployment would put it. */
export function generateRequest(
  options: GenerateOptions,
  context: { readonly deployment: string; readonly now: number; readonly newId: () => string },
): GenerateRequest {
  const { deadlineMs = DEFAULT_DEADLINE_MS, requestId = context.newId(), ...rest } = options;
  if (!Number.isSafeInteger(deadlineMs) || deadlineMs < 1 || deadlineMs > MAX_DEADLINE_MS) {
    throw new RallyError(
      "bad-request",
      `deadlineMs must be an integer from 1 to ${MAX_DEADLINE_MS}, found ${deadlineMs}`,
      {
        field: "deadlineMs",
        found: deadlineMs,
        limit: MAX_DEADLINE_MS,
      },
    );
  }
  const request = checkGenerateRequest({
    ...rest,
    kind: "generate",
    requestId,
    deployment: context.deployment,
    deadline: context.now + deadlineMs,
  });
  checkUnicode("prompt", request.prompt);
  for (const stop of request.stop) checkUnicode("stop", stop);
  return request;
}

function checkUnicode(field: string, text: string | readonly number[]): void {
  if (typeof text !== "string" || text.isWellFormed()) return;
  throw new RallyError("bad-request", `${field} is not well-formed Unicode: it holds half a surrogate pair`, { field });
}
