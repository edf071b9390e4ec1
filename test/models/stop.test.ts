import { describe, expect, it } from "vitest";
import { StopMatcher } from "../../models/stop.ts";
import { TestRandom } from "../support/random-values.ts";

function run(stops: readonly string[], pieces: readonly string[]): { texts: string[]; stopped: boolean } {
  const matcher = new StopMatcher(stops);
  const texts: string[] = [];
  for (const piece of pieces) {
    const { emit, stopped } = matcher.push(piece);
    texts.push(emit);
    if (stopped) return { texts, stopped };
  }
  texts.push(matcher.end());
  return { texts, stopped: false };
}

describe("StopMatcher", () => {
  it("passes text on at once when there is nothing to stop at", () => {
    expect(run([], ["a", "", "b"])).toEqual({ texts: ["a", "", "b", ""], stopped: false });
  });

  it("ends the text before a stop string", () => {
    expect(run(["END"], ["one END two"])).toEqual({ texts: ["one "], stopped: true });
  });

  it("finds a stop string across pieces and never emits a part of it", () => {
    expect(run(["END"], ["one E", "N", "D two"])).toEqual({ texts: ["one ", "", ""], stopped: true });
  });

  it("lets go of what turns out to be none", () => {
    expect(run(["END"], ["E", "N", "E", "N", "x"])).toEqual({ texts: ["", "", "EN", "", "ENx", ""], stopped: false });
  });

  it("gives back what is still held at the end", () => {
    expect(run(["\n\n"], ["a\n"])).toEqual({ texts: ["a", "\n"], stopped: false });
  });

  it("goes by the one that is complete first, of two that end together by the longer", () => {
    expect(run(["abcd", "bc"], ["xabcd"])).toEqual({ texts: ["xa"], stopped: true });
    expect(run(["c", "bc"], ["abc"])).toEqual({ texts: ["a"], stopped: true });
  });

  it("says nothing more once it has stopped", () => {
    const matcher = new StopMatcher(["x"]);
    matcher.push("ax");
    expect([matcher.push("b"), matcher.end()]).toEqual([{ emit: "", stopped: true }, ""]);
  });

  it("ignores empty stop strings", () => {
    expect(run([""], ["a"])).toEqual({ texts: ["a", ""], stopped: false });
  });

  it("does not depend on how the text is cut", () => {
    const random = new TestRandom(5);
    for (let n = 0; n < 3000; n++) {
      const letters = (most: number) =>
        Array.from({ length: 1 + random.below(most) }, () => random.pick(["a", "b", "c"])).join("");
      const stops = Array.from({ length: 1 + random.below(3) }, () => letters(4));
      const text = letters(30);
      const pieces: string[] = [];
      for (let at = 0; at < text.length;) {
        const length = 1 + random.below(5);
        pieces.push(text.slice(at, at + length));
        at += length;
      }
      const { texts, stopped } = run(stops, pieces);
      expect([stops, text, texts.join(""), stopped]).toEqual([stops, text, ...expected(stops, text)]);
    }
  });
});

/** By the definition: the shortest beginning of the text that ends with a stop string. */
function expected(stops: readonly string[], text: string): [string, boolean] {
  for (let end = 1; end <= text.length; end++) {
    const matches = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (matches.length > 0) return [text.slice(0, end - Math.max(...matches.map((stop) => stop.length))), true];
  }
  return [text, false];
}
