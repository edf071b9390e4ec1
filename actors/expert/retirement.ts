import type { Clock, Timer } from "../../infra/clock.ts";
import { isNeeded } from "../protocol/placement.ts";

export interface RetirementOptions {
  readonly clock: Clock;
  /** Of the placement that this expert actor serves. */
  readonly epoch: number;
  /** Batches answered so far. */
  readonly numBatches: () => Promise<number>;
  readonly retire: (why: string) => void;
}

const LOOK_EVERY_MS = 1_000;
/** Without a batch for so long, everybody has gone over to a later placement: they do so at their next token. */
const QUIET_LOOKS = 5;

/** Notices that the placement has moved on and nobody dispatches by the old one any more. */
export class Retirement {
  readonly #options: RetirementOptions;
  #placed = { current: 0, next: 0 };
  #timer: Timer | undefined;
  #numBatches = -1;
  #quietLooks = 0;
  #closed = false;

  constructor(options: RetirementOptions) {
    this.#options = options;
  }

  placed(key: "current" | "next", epoch: number): void {
    this.#placed = { ...this.#placed, [key]: epoch };
    this.#quietLooks = 0;
    this.#timer?.cancel();
    this.#timer = undefined;
    if (!this.#closed && !this.#isNeeded) this.#lookSoon();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  get #isNeeded(): boolean {
    return this.#placed.current === 0 || isNeeded(this.#options.epoch, this.#placed);
  }

  #lookSoon(): void {
    this.#timer = this.#options.clock.after(LOOK_EVERY_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    const { numBatches, retire, epoch } = this.#options;
    const timer = this.#timer;
    const count = await numBatches();
    // Placed anew in the meantime.
    if (this.#closed || this.#timer !== timer) return;
    this.#quietLooks = count === this.#numBatches ? this.#quietLooks + 1 : 0;
    this.#numBatches = count;
    if (this.#quietLooks < QUIET_LOOKS) return this.#lookSoon();
    this.#closed = true;
    retire(`placement ${epoch} was followed by ${this.#placed.current}, and nobody uses it any more`);
  }
}
