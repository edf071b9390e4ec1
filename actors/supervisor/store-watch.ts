import type { Clock, Timer } from "../../infra/clock.ts";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";

export interface StoreWatchOptions {
  readonly clock: Clock;
  /** Asks the store for something small. */
  readonly ask: () => Promise<unknown>;
  /** Changes when another server has taken the place of the one before. */
  readonly generation: () => number;
  readonly silent: (why: string) => void;
}

const ASK_EVERY_MS = 2_000;
/** Counted in questions rather than in time: after a machine has slept, nobody is silent yet. */
const MAX_UNANSWERED = 3;
/** Any other refusal is an answer. */
const SILENCE: readonly ErrorCode[] = ["timeout", "server-unavailable"];

/** Notices a server that runs and is silent: stopped, or, as nats-server 2.9 after an error of the disk, wedged for good. */
export class StoreWatch {
  readonly #options: StoreWatchOptions;
  #timer: Timer | undefined;
  #unanswered = 0;
  #generation: number;
  #stopped = false;

  constructor(options: StoreWatchOptions) {
    this.#options = options;
    this.#generation = options.generation();
    this.#askSoon();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #askSoon(): void {
    this.#timer = this.#options.clock.after(ASK_EVERY_MS, () => void this.#ask());
  }

  async #ask(): Promise<void> {
    const { ask, generation, silent } = this.#options;
    const isSilent = await ask().then(
      () => false,
      (thrown: unknown) => SILENCE.includes(RallyError.from(thrown).code),
    );
    if (this.#stopped) return;
    // A new server starts with a clean slate; nobody was there to answer what was asked before.
    if (generation() !== this.#generation || !isSilent) this.#unanswered = 0;
    else this.#unanswered++;
    this.#generation = generation();
    if (this.#unanswered >= MAX_UNANSWERED) {
      this.#unanswered = 0;
      silent(`it has not answered ${MAX_UNANSWERED} questions`);
    }
    this.#askSoon();
  }
}
