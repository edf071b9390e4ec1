import { readFileSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../../infra/errors.ts";
import { packageRoot } from "../../infra/own-file.ts";
import type { Command, CommandContext } from "./command.ts";
import { commandHelp, overview } from "./help.ts";
import type { Terminal } from "./terminal.ts";

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;
/** 128 + the signal's number, as shells have it. */
const EXIT_SIGNAL: Readonly<Record<string, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/** All of `rally` but the process around it; resolves with the exit status and never throws. */
export async function runCli(
  commands: readonly Command[],
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const { terminal, interrupted } = context;
  const asJson = ownFlags(args).includes("--json");
  try {
    return await dispatch(commands, args, context);
  } catch (thrown) {
    terminal.done();
    const error = RallyError.from(thrown);
    if (asJson) terminal.write(`${JSON.stringify({ error: error.toWire() })}\n`);
    if (interrupted.aborted && error.code === "cancelled")
      return EXIT_SIGNAL[String(interrupted.reason)] ?? EXIT_FAILURE;
    const name = commands.find((command) => command.name === args[0])?.name;
    report(thrown, error, name, terminal);
    return error.code === "bad-settings" ? EXIT_USAGE : EXIT_FAILURE;
  } finally {
    terminal.done();
  }
}

async function dispatch(
  commands: readonly Command[],
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const { terminal } = context;
  const [name, ...rest] = args;
  if (name === undefined) {
    terminal.say(overview(commands));
    return EXIT_USAGE;
  }
  if (name === "--version" || name === "-V") {
    terminal.write(`rally ${version()}\n`);
    return 0;
  }
  const asked = name === "--help" || name === "-h" || name === "help" ? rest[0] : name;
  if (asked === undefined) {
    terminal.write(overview(commands));
    return 0;
  }
  const command = commands.find((candidate) => candidate.name === asked);
  if (command === undefined) {
    const known = commands.map((candidate) => candidate.name).join(", ");
    throw new RallyError("bad-settings", `unknown command ${JSON.stringify(asked.slice(0, 60))}; commands: ${known}`, {
      field: "COMMAND",
      found: asked.slice(0, 60),
    });
  }
  if (asked !== name || ownFlags(rest).some((arg) => arg === "--help" || arg === "-h")) {
    terminal.write(commandHelp(command));
    return 0;
  }
  return await command.run(rest, context);
}

/** Arguments before `--`, after which nothing is a flag. */
function ownFlags(args: readonly string[]): readonly string[] {
  const end = args.indexOf("--");
  return end === -1 ? args : args.slice(0, end);
}

function report(thrown: unknown, error: RallyError, command: string | undefined, terminal: Terminal): void {
  // Anything but a RallyError is a mistake of ours, and its stack is what we need to know.
  if (!(thrown instanceof RallyError) && thrown instanceof Error) {
    terminal.say(`rally: internal error, please report it: ${thrown.stack ?? thrown.message}`);
    return;
  }
  const hint = hintFor(error, command);
  terminal.say(`rally: ${error.message}${hint === undefined ? "" : ` (${hint})`}`);
}

function hintFor({ code, fields }: RallyError, command: string | undefined): string | undefined {
  switch (code) {
    case "bad-settings":
      return command === undefined ? "see rally --help" : `see rally ${command} --help`;
    case "overloaded":
      return `try again in ${String(fields["retryAfterMs"] ?? 1000)} ms`;
    case "context-exceeded":
      return "shorten the prompt or lower --max-tokens";
    case "deadline-exceeded":
      return "--deadline gives it longer";
    case "bad-model":
    case "unsupported-model":
      return "rally doctor --model DIR checks a model";
    default:
      return undefined;
  }
}

function version(): string {
  const manifest = JSON.parse(readFileSync(path.join(packageRoot, "package.json"), "utf8")) as { version: string };
  return manifest.version;
}
