import { describe, expect, it } from "vitest";
import { compilePattern, literalPattern } from "../../../models/tokenizer/regex.ts";

const found = (pattern: string, text: string) => text.match(compilePattern(pattern)) ?? [];

describe("Oniguruma patterns mean the same in JavaScript", () => {
  it.each([
    ["white space is Unicode's", String.raw`\s+`, "a \u0085\u3000b\ufeffc", [" \u0085\u3000"]],
    ["and so is its complement", String.raw`\S+`, "a\u0085b\ufeffc", ["a", "b\ufeffc"]],
    ["in sets, too", String.raw`[^\s\p{L}]+`, "a1\u0085 2\ufeff", ["1", "2\ufeff"]],
    ["a group without regard to case", "(?i:'s|'ll)", "'s 'S 'lL 'ſ 'x", ["'s", "'S", "'lL", "'ſ"]],
    ["only inside that group", "(?i:a)b", "ab Ab aB", ["ab", "Ab"]],
    ["digits of all scripts", String.raw`\d+`, "12 ١٢ ²", ["12", "١٢"]],
    ["a dot stops at line feeds only", ".+", "a\rb\nc", ["a\rb", "c"]],
    ["punctuation without meaning may be escaped", String.raw`\'\-\"\#`, "'-\"#", ["'-\"#"]],
    ["brackets in sets", String.raw`[\[\]\\^_{|}~]+`, "a[]\\^_{|}~b", ["[]\\^_{|}~"]],
    ["a bracket that comes first", "[]a]+", "b]a]c", ["]a]"]],
    ["ranges of letters beyond ASCII", "[一-龥]+", "a从前b", ["从前"]],
    ["look-ahead and look-behind", String.raw`(?<=a)b(?!c)`, "ab abc bb", ["b"]],
    ["counts", String.raw`\p{N}{1,3}`, "12345", ["123", "45"]],
    ["code points by number", String.raw`\x{1F600}|\u00e9|\x41`, "😀éA", ["😀", "é", "A"]],
  ])("%s", (_, pattern, text, expected) => {
    expect([...found(pattern, text)]).toEqual(expected);
  });

  it.each([
    "a++",
    "a?+",
    "(?>a)",
    "^a",
    "a$",
    String.raw`\Aa`,
    String.raw`\h`,
    "[a&&b]",
    "[[:alpha:]]",
    "(?<x>a)",
    "(?x)a",
    "(?i:[a])",
    "(?i:é)",
    "a\\",
    "[a",
    "*",
    String.raw`\p{Nothing}`,
  ])("%s is refused rather than read differently", (pattern) => {
    expect(() => compilePattern(pattern)).toThrow(expect.objectContaining({ code: "unsupported-model" }));
  });

  it("a literal is only itself", () => {
    const text = String.raw`\^$.*+?()[]{}|/-`;
    expect([...(`x${text}y`.match(literalPattern(text)) ?? [])]).toEqual([text]);
  });
});
