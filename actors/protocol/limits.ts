/** Limits of what a client may send; beyond them the answer is `bad-request`. */
export const REQUEST_LIMITS = {
  promptCharacters: 4_000_000,
  promptTokens: 1_000_000,
  maxTokens: 1_000_000,
  stops: 4,
  stopCharacters: 200,
  logprobs: 20,
  /** Who follows a request says so every second: three of these may get lost. */
  idleLimitMs: { least: 3_000, most: 86_400_000 },
} as const;

/** How often whoever follows a request says so. */
export const FOLLOW_EVERY_MS = 1_000;

/** Rows of one ActivationBatch at most; a trip with more is split. */
export const MAX_BATCH_ROWS = 4096;
