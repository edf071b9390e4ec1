/** A repeated id within this time is the same job or entry. */
export const DUPLICATE_WINDOW_MS = 120_000;
/** What a refusal for want of room says about coming back. */
export const RETRY_AFTER_MS = 1000;
