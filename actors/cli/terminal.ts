import type { Writable } from "node:stream";
import type { Clock, Timer } from "../../infra/clock.ts";

/** A stream that may be a terminal. */
export type Output = Writable & { readonly isTTY?: boolean };

const QUIET_MS = 1_000;
/** Least time between two progress lines: as fast as one can read, or as a log can bear. */
const TTY_MS = 80;
const PLAIN_MS = 2_000;
const CLEAR_LINE = "\r\u001b[K";

/**
 * What a command says. The result goes to stdout, everything about it to stderr. Progress is shown once something takes over a
 * second: as one line that changes on a terminal, else as plain lines.
 */
export class Terminal {
  readonly #stdout: Output;
  readonly #stderr: Output;
  readonly #clock: Clock;
  readonly #startedAt: number;
  #pending: string | undefined;
  #timer: Timer | undefined;
  #isShown = false;
  /** A line of the result is not yet at its end: progress would cut into it. */
  #isMidLine = false;
  #shownAt = -Infinity;
  #gone = false;
  #onGone: (() => void)[] = [];

  constructor(stdout: Output, stderr: Output, clock: Clock) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#clock = clock;
    this.#startedAt = clock.elapsed();
    // A reader that has gone (`rally run … | head -1`) is no fault of ours.
    stdout.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
      this.#gone = true;
      for (const callback of this.#onGone.splice(0)) callback();
    });
    stderr.on("error", () => undefined);
  }

  /** Calls back once nobody reads stdout any more. */
  onReaderGone(callback: () => void): void {
    if (this.#gone) callback();
    else this.#onGone.push(callback);
  }

  /** To stdout, as it is. */
  write(text: string): void {
    this.#clear();
    this.#isMidLine = !text.endsWith("\n");
    if (!this.#gone) this.#stdout.write(text);
  }

  /** What the text to come goes on from, for a person at a terminal; elsewhere nothing. */
  showPrompt(prompt: string): void {
    if (this.#stderr.isTTY !== true || this.#stdout.isTTY !== true) return;
    this.#clear();
    this.#isMidLine = true;
    this.#stderr.write(`\u001b[2m${prompt}\u001b[0m`);
  }

  /** A line to stderr. */
  say(line: string): void {
    this.#clear();
    this.#stderr.write(`${line}\n`);
  }

  /** What goes on now; replaces what was said before. */
  progress(text: string): void {
    this.#pending = text;
    if (this.#timer !== undefined) return;
    const due = Math.max(this.#startedAt + QUIET_MS, this.#shownAt + (this.#stderr.isTTY === true ? TTY_MS : PLAIN_MS));
    const wait = Math.max(0, due - this.#clock.elapsed());
    this.#timer = this.#clock.after(wait, () => {
      this.#timer = undefined;
      if (this.#pending !== undefined) this.#show(this.#pending);
      this.#pending = undefined;
    });
  }

  /** Takes the progress line away; call before ending. */
  done(): void {
    this.#pending = undefined;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#clear();
  }

  /** Resolves when everything said has left this process, or nobody reads it. */
  async flush(): Promise<void> {
    for (const stream of [this.#stdout, this.#stderr]) {
      if (!stream.destroyed) await new Promise<void>((resolve) => void stream.write("", () => resolve()));
    }
  }

  #show(text: string): void {
    if (this.#isMidLine) return;
    this.#shownAt = this.#clock.elapsed();
    if (this.#stderr.isTTY !== true) {
      this.#stderr.write(`${text}\n`);
      return;
    }
    this.#stderr.write(`${CLEAR_LINE}${text.split("\n")[0]?.slice(0, 100) ?? ""}`);
    this.#isShown = true;
  }

  #clear(): void {
    if (this.#isShown) this.#stderr.write(CLEAR_LINE);
    this.#isShown = false;
  }
}
