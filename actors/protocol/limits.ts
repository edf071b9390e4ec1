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

const MAX_ID = Number.MAX_SAFE_INTEGER;

/** What the fields may be that say where a batch and its answer belong, each from 0. */
export const POSITION_LIMITS = {
  epoch: MAX_ID,
  passId: MAX_ID,
  microBatch: 65_535,
  layer: 65_535,
  part: 65_535,
  attempt: MAX_ID,
  deadline: MAX_ID,
  shard: 65_535,
  waitUs: MAX_ID,
  computeUs: MAX_ID,
} as const;

/** Rows of one ActivationBatch at most; a trip with more is split. */
export const MAX_BATCH_ROWS = 4096;
