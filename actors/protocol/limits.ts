/** Limits of what a client may send; beyond them the answer is `bad-request`. */
export const REQUEST_LIMITS = {
  promptCharacters: 4_000_000,
  promptTokens: 1_000_000,
  maxTokens: 1_000_000,
  stops: 4,
  stopCharacters: 200,
  logprobs: 20,
} as const;

/** Rows of one ActivationBatch at most; a trip with more is split. */
export const MAX_BATCH_ROWS = 4096;
