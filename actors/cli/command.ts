import type { Flags } from "./flags.ts";
import type { Terminal } from "./terminal.ts";

/** Where a command runs: everything it may touch of its process. */
export interface CommandContext {
  readonly env: NodeJS.ProcessEnv;
  readonly terminal: Terminal;
  readonly stdin: AsyncIterable<Uint8Array | string>;
  /** Aborted by the first SIGINT or SIGTERM, with the signal's name as reason: finish and leave. */
  readonly interrupted: AbortSignal;
  /** Run at the second signal, just before the process ends: nothing may be waited for. */
  onKill(callback: () => void): void;
}

export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** What stands after the name, e.g. `PROMPT [flags]`. */
  readonly usage: string;
  /** Paragraphs for `rally NAME --help`, above the flags. */
  readonly description: string;
  readonly examples: readonly (readonly [command: string, meaning: string])[];
  readonly flags: Flags;
  /** Resolves with the exit status. */
  run(args: readonly string[], context: CommandContext): Promise<number>;
}
