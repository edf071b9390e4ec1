import { PassThrough } from "node:stream";
import { runCli } from "../../actors/cli/cli.ts";
import type { Command, CommandContext } from "../../actors/cli/command.ts";
import { type Output, Terminal } from "../../actors/cli/terminal.ts";
import { type Clock, SimulatedClock } from "../../infra/clock.ts";

/** A stream that remembers what was written, like a terminal or not. */
export class Capture {
  readonly stream: Output;
  text = "";

  constructor(isTTY = false) {
    this.stream = Object.assign(new PassThrough(), { isTTY });
    this.stream.on("data", (chunk: Buffer) => (this.text += chunk.toString()));
  }
}

export interface CliRun {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly stdin?: readonly (Uint8Array | string)[];
  readonly interrupt?: AbortController;
  readonly clock?: Clock;
}

/** Runs `rally ARGS` in this process. */
export async function rally(
  commands: readonly Command[],
  args: readonly string[],
  options: CliOptions = {},
): Promise<CliRun> {
  const [stdout, stderr] = [new Capture(), new Capture()];
  const context: CommandContext = {
    env: options.env ?? {},
    terminal: new Terminal(stdout.stream, stderr.stream, options.clock ?? new SimulatedClock()),
    stdin: iterate(options.stdin ?? []),
    interrupted: (options.interrupt ?? new AbortController()).signal,
    onKill: () => undefined,
  };
  const status = await runCli(commands, args, context);
  await context.terminal.flush();
  return { status, stdout: stdout.text, stderr: stderr.text };
}

async function* iterate<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}
