/** Told of every finished hop, and of what is computed here meanwhile; times in milliseconds of `clock.elapsed()`. */
export interface HopObserver {
  computed(what: "shared", microBatch: number, layer: number, from: number, to: number): void;
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
