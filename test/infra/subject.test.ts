import { describe, expect, it } from "vitest";
import { checkPattern, checkSubject, matchesSubject } from "../../infra/subject.ts";

describe("subjects", () => {
  it.each([
    ["a.b", "a.b", true],
    ["a.b", "a.c", false],
    ["a.b", "a", false],
    ["a", "a.b", false],
    ["a.*", "a.b", true],
    ["a.*", "a", false],
    ["a.*", "a.b.c", false],
    ["*.b", "a.b", true],
    ["a.>", "a", false],
    ["a.>", "a.b", true],
    ["a.>", "a.b.c", true],
    [">", "a", true],
    ["a.*.c.>", "a.b.c.d.e", true],
    ["a.*.c.>", "a.b.x.d.e", false],
  ])("%s takes %s: %s", (pattern, subject, expected) => {
    expect(matchesSubject(pattern, subject)).toBe(expected);
  });

  it.each(["a", "a.b", "$JS.API.x", "a-b_c.1"])("takes %s", (subject) => {
    expect(() => checkSubject(subject)).not.toThrow();
    expect(() => checkPattern(subject)).not.toThrow();
  });

  it.each(["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\n"])("refuses %j", (subject) => {
    expect(() => checkSubject(subject)).toThrow(/subject must be/);
    expect(() => checkPattern(subject)).toThrow(/subject must be/);
  });

  it("wildcards are for subscriptions only", () => {
    for (const pattern of ["a.*", "a.>", ">", "*"]) {
      expect(() => checkSubject(pattern)).toThrow(/wildcards/);
      checkPattern(pattern);
    }
    expect(() => checkPattern("a.>.b")).toThrow(/only at the end/);
  });
});
