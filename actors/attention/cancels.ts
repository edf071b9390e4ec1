import type { Clock, Timer } from "../../infra/clock.ts";

const REMEMBER_MS = 10 * 60_000;
const MAX_REMEMBERED = 10_000;
/** The owner, if there is one, ends its request well within this time. */
const GRACE_MS = 500;
const MAX_PENDING = 256;

/**
 * Cancels of requests that this actor does not own: another one does, or they are still in the queue, where nobody hears a core
 * message. Remembered for the one who pulls the request later; and once its owner has had time to act, `endUnowned` is asked to
 * end it in the log, so that a cancelled request need not wait for its turn to end.
 */
export class Cancels {
  readonly #clock: Clock;
  readonly #endUnowned: (requestId: string) => void;
  /** Until when; the oldest first. */
  readonly #remembered = new Map<string, number>();
  readonly #pending = new Set<Timer>();

  constructor(clock: Clock, endUnowned: (requestId: string) => void) {
    this.#clock = clock;
    this.#endUnowned = endUnowned;
  }

  add(requestId: string): void {
    // Clients repeat themselves until they see the ending.
    if (this.has(requestId)) return;
    this.#remembered.set(requestId, this.#clock.elapsed() + REMEMBER_MS);
    for (const oldest of this.#remembered.keys()) {
      if (this.#remembered.size <= MAX_REMEMBERED) break;
      this.#remembered.delete(oldest);
    }
    if (this.#pending.size >= MAX_PENDING) return;
    const timer = this.#clock.after(GRACE_MS, () => {
      this.#pending.delete(timer);
      this.#endUnowned(requestId);
    });
    this.#pending.add(timer);
  }

  has(requestId: string): boolean {
    const until = this.#remembered.get(requestId);
    if (until === undefined) return false;
    if (until > this.#clock.elapsed()) return true;
    this.#remembered.delete(requestId);
    return false;
  }

  close(): void {
    for (const timer of this.#pending) timer.cancel();
    this.#pending.clear();
  }
}
