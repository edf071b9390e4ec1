/** Told of every finished hop; times in milliseconds of `clock.elapsed()`. */
export interface HopObserver {
  hop(hop: {
    readonly microBatch: number;
    readonly layer: number;
    readonly shard: number;
    readonly sentAt: number;
    readonly answeredAt: number;
    readonly expertMs: number;
    readonly bytes: number;
  }): void;
  /** A dispatch was sent once more: refused, unanswered, or late and another replica asked too. */
  retry(): void;
  badMessage(reason: string): void;
}
