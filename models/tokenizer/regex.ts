import { RallyError } from "../../infra/errors.ts";

/**
 * Tokenizer files write patterns for Oniguruma. This turns the part of its syntax that they use into a JavaScript regular
 * expression of the same meaning, and refuses the rest: a pattern read differently would give other tokens silently.
 */
export function compilePattern(pattern: string): RegExp {
  try {
    return new RegExp(new Translation(pattern).run(), "gu");
  } catch (error) {
    if (error instanceof RallyError) throw error;
    throw unsupported(pattern, RallyError.from(error).message);
  }
}

/** A string to be found as it is. */
export function literalPattern(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/gu, String.raw`\$&`), "gu");
}

const SYNTAX = /[\^$\\.*+?()[\]{}|/]/u;
/** JavaScript's own \s counts U+FEFF and lacks U+0085. */
const CLASS_ESCAPES: Readonly<Record<string, { readonly plain: string; readonly inSet: string | undefined }>> = {
  s: { plain: String.raw`\p{White_Space}`, inSet: String.raw`\p{White_Space}` },
  S: { plain: String.raw`\P{White_Space}`, inSet: String.raw`\P{White_Space}` },
  d: { plain: String.raw`\p{Nd}`, inSet: String.raw`\p{Nd}` },
  D: { plain: String.raw`\P{Nd}`, inSet: String.raw`\P{Nd}` },
  w: { plain: String.raw`[\p{L}\p{M}\p{N}\p{Pc}]`, inSet: String.raw`\p{L}\p{M}\p{N}\p{Pc}` },
  W: { plain: String.raw`[^\p{L}\p{M}\p{N}\p{Pc}]`, inSet: undefined },
};
const CONTROLS = "nrtfv";
/** Letters outside ASCII that fold to an ASCII letter. */
const ALSO_FOLDS: Readonly<Record<string, string>> = { s: "\u017f", k: "\u212a" };

class Translation {
  readonly #pattern: string;
  #at = 0;
  /** One entry per open group: whether letters match without regard to case in it. */
  readonly #ignoresCase: boolean[] = [false];

  constructor(pattern: string) {
    this.#pattern = pattern;
  }

  run(): string {
    let out = "";
    while (this.#at < this.#pattern.length) out += this.#next();
    return out;
  }

  #next(): string {
    const char = this.#take();
    switch (char) {
      case "\\":
        return this.#escape(false);
      case "[":
        return this.#set();
      case "(":
        return this.#group();
      case ")":
        if (this.#ignoresCase.length > 1) this.#ignoresCase.pop();
        return ")";
      case ".":
        return String.raw`[^\n]`;
      case "^":
      case "$":
        throw this.#refuse(`anchor ${char}`);
      case "?":
      case "*":
      case "+":
        if (this.#peek() === "+") throw this.#refuse(`possessive quantifier ${char}+`);
        return char;
      default:
        return this.#letter(char);
    }
  }

  #group(): string {
    const inherited = this.#ignoresCase.at(-1) === true;
    const rest = this.#pattern.slice(this.#at);
    const opening = /^\?(?:[:=!]|<[=!]|i:)/u.exec(rest)?.[0];
    if (opening === undefined && rest.startsWith("?")) throw this.#refuse(`group (${rest.slice(0, 3)}`);
    this.#at += opening?.length ?? 0;
    this.#ignoresCase.push(inherited || opening === "?i:");
    // What a group captures is never used.
    return opening === undefined || opening === "?i:" ? "(?:" : `(${opening}`;
  }

  #escape(inSet: boolean): string {
    const char = this.#take();
    if (char === "p" || char === "P") {
      const name = /^\{[A-Za-z_]+\}/u.exec(this.#pattern.slice(this.#at))?.[0];
      if (name === undefined) throw this.#refuse(`\\${char}`);
      this.#at += name.length;
      return `\\${char}${name}`;
    }
    const escaped = CLASS_ESCAPES[char];
    if (escaped !== undefined) {
      const text = inSet ? escaped.inSet : escaped.plain;
      if (text === undefined) throw this.#refuse(`\\${char} in a set`);
      return text;
    }
    if (CONTROLS.includes(char)) return `\\${char}`;
    const code = /^(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]{1,6}\})/u.exec(
      char + this.#pattern.slice(this.#at),
    )?.[0];
    if (code !== undefined) {
      this.#at += code.length - 1;
      return code.startsWith("x{") ? String.raw`\u${code.slice(1)}` : `\\${code}`;
    }
    if (/[A-Za-z0-9]/u.test(char)) throw this.#refuse(`\\${char}`);
    return SYNTAX.test(char) || (inSet && char === "-") ? `\\${char}` : char;
  }

  #set(): string {
    let out = "[";
    if (this.#peek() === "^") out += this.#take();
    for (;;) {
      const char = this.#take();
      if (char === "]" && out !== "[" && out !== "[^") return `${out}]`;
      if (char === "[") throw this.#refuse("nested set");
      if (char === "&" && this.#peek() === "&") throw this.#refuse("set intersection");
      const text = char === "\\" ? this.#escape(true) : char;
      if (this.#ignoresCase.at(-1) === true && /[A-Za-z]/u.test(text)) throw this.#refuse("set that ignores case");
      out += SYNTAX.test(text) && text.length === 1 ? `\\${text}` : text;
    }
  }

  #letter(char: string): string {
    if (this.#ignoresCase.at(-1) !== true || char.toLowerCase() === char.toUpperCase()) return char;
    if (!/[A-Za-z]/u.test(char)) throw this.#refuse(`${char} without regard to case`);
    const lower = char.toLowerCase();
    return `[${lower}${lower.toUpperCase()}${ALSO_FOLDS[lower] ?? ""}]`;
  }

  #peek(): string {
    return this.#pattern.charAt(this.#at);
  }

  #take(): string {
    const codePoint = this.#pattern.codePointAt(this.#at);
    if (codePoint === undefined) throw this.#refuse("its end");
    const char = String.fromCodePoint(codePoint);
    this.#at += char.length;
    return char;
  }

  #refuse(what: string): RallyError {
    return unsupported(this.#pattern, what);
  }
}

function unsupported(pattern: string, what: string): RallyError {
  return new RallyError(
    "unsupported-model",
    `tokenizer pattern ${JSON.stringify(pattern.slice(0, 200))}: cannot read ${what}`,
    {
      field: "pre_tokenizer",
      found: what,
    },
  );
}
