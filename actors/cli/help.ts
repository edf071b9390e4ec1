import type { Command } from "./command.ts";
import type { Flags } from "./flags.ts";

const WIDTH = 80;

export function overview(commands: readonly Command[]): string {
  const rows = commands.map(({ name, summary }) => [name, summary] as const);
  return [
    "rally serves mixture-of-experts language models with attention and experts in",
    "separate processes that meet over NATS.",
    "",
    "Usage: rally COMMAND [flags]",
    "",
    "Commands:",
    ...table(rows),
    "",
    "  rally COMMAND --help   what a command does, its flags and examples",
    "  rally --version",
    "",
    "Example:",
    '  rally run "Once upon a time"',
    "",
    "Environment:",
    ...table(ENVIRONMENT),
    "",
  ].join("\n");
}

export function commandHelp(command: Command): string {
  const { name, usage, description, flags, examples } = command;
  return [
    `Usage: rally ${name} ${usage}`,
    "",
    ...paragraphs(description),
    "Flags:",
    ...table(flagRows(flags)),
    "",
    "Examples:",
    ...examples.flatMap(([line, meaning]) => [`  ${line}`, ...wrap(meaning, WIDTH - 6).map((text) => `      ${text}`)]),
    "",
  ].join("\n");
}

const ENVIRONMENT = [
  ["NATS_URL", "use this server, e.g. nats://host:4222 or tls://…, instead of starting one"],
  ["NATS_CREDS", "credentials file for it"],
  ["NATS_CA, NATS_CERT, NATS_KEY", "TLS files for it: authority, certificate and its key"],
  ["RALLY_NATS_SERVER", "the nats-server binary to start"],
  ["XDG_DATA_HOME, XDG_CACHE_HOME", "where stores, and what can be made again, are kept"],
] as const;

function flagRows(flags: Flags): (readonly [string, string])[] {
  const rows = Object.entries(flags).map(([name, { value, help, repeated, fallback }]) => {
    const notes = [
      ...(repeated === true ? ["may be repeated"] : []),
      ...(fallback === undefined ? [] : [`default ${fallback}`]),
    ];
    return [
      value === undefined ? `--${name}` : `--${name} ${value}`,
      notes.length === 0 ? help : `${help} (${notes.join("; ")})`,
    ] as const;
  });
  return [...rows, ["--help", "this page"]];
}

function table(rows: readonly (readonly [string, string])[]): string[] {
  const left = Math.min(26, Math.max(...rows.map(([name]) => name.length)));
  return rows.flatMap(([name, text]) => {
    const lines = wrap(text, WIDTH - left - 4);
    // A long name has the line to itself.
    const first = name.length > left ? [`  ${name}`] : [];
    const body = lines.map((line, i) => `  ${(i === 0 && first.length === 0 ? name : "").padEnd(left)}  ${line}`);
    return [...first, ...body];
  });
}

/** However its source is broken into lines; a blank line ends a paragraph. */
function paragraphs(text: string): string[] {
  return text.split("\n\n").flatMap((paragraph) => [...wrap(paragraph.replaceAll("\n", " "), WIDTH), ""]);
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
