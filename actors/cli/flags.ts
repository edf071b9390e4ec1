import { parseArgs } from "node:util";
import { RallyError } from "../../infra/errors.ts";

/** One flag: how it reads its text, and what `--help` says of it. */
export interface Flag<T> {
  /** What stands for the value in `--help`; without it the flag is a switch. */
  readonly value?: string;
  readonly help: string;
  /** Whether it may be given several times. */
  readonly repeated?: boolean;
  /** As `--help` names it. */
  readonly fallback?: string;
  /** `texts` as given, empty if it was not. */
  readonly read: (name: string, texts: readonly string[], given: boolean) => T;
}

export type Flags = Readonly<Record<string, Flag<unknown>>>;
export type FlagValues<F extends Flags> = { readonly [Name in keyof F]: F[Name] extends Flag<infer T> ? T : never };

export interface ParsedArguments<F extends Flags> {
  readonly values: FlagValues<F>;
  readonly positionals: readonly string[];
  /** Names of the flags that were given. */
  readonly given: ReadonlySet<string>;
}

export function switchFlag(help: string): Flag<boolean> {
  return { help, read: (_name, _texts, given) => given };
}

export function textFlag(value: string, help: string, fallback: string): Flag<string>;
export function textFlag(value: string, help: string): Flag<string | undefined>;
export function textFlag(value: string, help: string, fallback?: string): Flag<string | undefined> {
  return { value, help, ...said(fallback), read: (_name, texts) => texts.at(-1) ?? fallback };
}

/** Text that a subject, a folder or a file may be named by. */
export function nameFlag(help: string, fallback: string): Flag<string> {
  return {
    value: "NAME",
    help,
    fallback,
    read(name, texts) {
      const text = texts.at(-1) ?? fallback;
      if (/^[A-Za-z0-9_-]{1,64}$/.test(text)) return text;
      throw badFlag(name, text, "1 to 64 letters, digits, _ or -");
    },
  };
}

export function listFlag(value: string, help: string): Flag<readonly string[]> {
  return { value, help, repeated: true, read: (_name, texts) => texts };
}

/** Integers separated by commas, each once, ascending; none if it was not given. */
export function integersFlag(value: string, help: string, range: Range): Flag<readonly number[]> {
  return {
    value,
    help,
    read(name, texts) {
      const numbers = texts
        .flatMap((text) => text.split(","))
        .map((text) => readNumber(name, text.trim(), range, Number.isSafeInteger, "integers"));
      return [...new Set(numbers)].toSorted((a, b) => a - b);
    },
  };
}

interface Range {
  readonly min: number;
  readonly max: number;
}

export function integerFlag(value: string, help: string, range: Range, fallback: number): Flag<number>;
export function integerFlag(value: string, help: string, range: Range): Flag<number | undefined>;
export function integerFlag(value: string, help: string, range: Range, fallback?: number): Flag<number | undefined> {
  const read = (name: string, text: string) => readNumber(name, text, range, Number.isSafeInteger, "an integer");
  return { value, help, ...said(fallback), read: (name, texts) => last(texts, (text) => read(name, text)) ?? fallback };
}

export function numberFlag(value: string, help: string, range: Range, fallback: number): Flag<number> {
  const read = (name: string, text: string) => readNumber(name, text, range, Number.isFinite, "a number");
  return { value, help, ...said(fallback), read: (name, texts) => last(texts, (text) => read(name, text)) ?? fallback };
}

export function choiceFlag<C extends string>(choices: readonly C[], help: string, fallback: C): Flag<C>;
export function choiceFlag<C extends string>(choices: readonly C[], help: string): Flag<C | undefined>;
export function choiceFlag<C extends string>(choices: readonly C[], help: string, fallback?: C): Flag<C | undefined> {
  return {
    value: choices.join("|"),
    help,
    ...said(fallback),
    read: (name, texts) =>
      last(texts, (text) => {
        const choice = choices.find((candidate) => candidate === text);
        if (choice === undefined) throw badFlag(name, text, `one of ${choices.join(", ")}`);
        return choice;
      }) ?? fallback,
  };
}

/** A flag that takes a word besides what `inner` takes. */
export function orWord<T, W extends string>(word: W, inner: Flag<T>): Flag<T | W> {
  return {
    ...inner,
    value: `${inner.value}|${word}`,
    fallback: word,
    read: (name, texts, given) => (!given || texts.at(-1) === word ? word : inner.read(name, texts, given)),
  };
}

/** RallyError `bad-settings` names the flag, what was found and what is allowed. */
export function parseFlags<F extends Flags>(flags: F, args: readonly string[]): ParsedArguments<F> {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { value }]) => [
      name,
      { type: value === undefined ? ("boolean" as const) : ("string" as const), multiple: true },
    ]),
  );
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: joinNegatives(flags, args), options, allowPositionals: true, strict: true });
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    // Node's first sentence names the flag; what follows speaks of this process' own arguments.
    throw new RallyError("bad-settings", firstSentence(message), {}, { cause });
  }
  const values = Object.entries(flags).map(([name, flag]) => {
    const texts = parsed.values[name];
    return [name, flag.read(name, flag.value === undefined ? [] : ((texts ?? []) as string[]), texts !== undefined)];
  });
  return {
    values: Object.fromEntries(values) as FlagValues<F>,
    positionals: parsed.positionals,
    given: new Set(Object.keys(parsed.values)),
  };
}

export function badFlag(name: string, found: string, expected: string): RallyError {
  const shown = found.length <= 60 ? JSON.stringify(found) : `${found.length} characters`;
  return new RallyError("bad-settings", `--${name} must be ${expected}, found ${shown}`, {
    field: `--${name}`,
    found: found.slice(0, 60),
    expected,
  });
}

function readNumber(
  name: string,
  text: string,
  { min, max }: Range,
  isKind: (value: number) => boolean,
  kind: string,
): number {
  const number = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
  if (isKind(number) && number >= min && number <= max) return number;
  throw badFlag(name, text, `${kind} from ${min} to ${max}`);
}

/** `--temperature -1` names a value that is out of range, where Node sees two flags. */
function joinNegatives(flags: Flags, args: readonly string[]): string[] {
  const joined: string[] = [];
  for (const arg of args) {
    const before = joined.at(-1) ?? "";
    const takesValue = before.startsWith("--") && flags[before.slice(2)]?.value !== undefined;
    if (takesValue && /^-[.\d]/.test(arg)) joined[joined.length - 1] = `${before}=${arg}`;
    else joined.push(arg);
  }
  return joined;
}

function last<T>(texts: readonly string[], read: (text: string) => T): T | undefined {
  const text = texts.at(-1);
  return text === undefined ? undefined : read(text);
}

function said(fallback: string | number | undefined): { fallback?: string } {
  return fallback === undefined ? {} : { fallback: String(fallback) };
}

function firstSentence(text: string): string {
  const line = text.split("\n")[0] ?? text;
  return (line.split(". ")[0] ?? line).replace(/\.$/, "");
}

export function noArguments(command: string, positionals: readonly string[]): void {
  const [first] = positionals;
  if (first === undefined) return;
  throw new RallyError("bad-settings", `${command} takes flags only, found ${JSON.stringify(first.slice(0, 60))}`, {
    found: first.slice(0, 60),
  });
}
