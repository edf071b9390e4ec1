import path from "node:path";
import { beforeAll, expect, it } from "vitest";
import { loadTokenizer, type Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import { decodeAll } from "../../support/tokenizer-files.ts";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(path.join(import.meta.dirname, "../../../models/step3-tiny"));
});

const STORY =
  "Once upon a time there was a king who had three daughters. “Come,” he said, “it's late; we don't know the way.”\n\n" +
  "“I can't see anything,” the youngest cried — and she didn't move.\n";

it("the bundled model's tokenizer reads and writes text", () => {
  expect(tokenizer.vocabSize).toBe(4096);
  for (const text of [STORY, "1234 x² 从前 😀\t\u0000", ""]) {
    expect(decodeAll(tokenizer, tokenizer.encode(text))).toBe(text);
  }
});

it("packs English prose well", () => {
  expect(tokenizer.encode(STORY.repeat(3)).length).toBeLessThan((STORY.length * 3) / 2.5);
});

it("keeps its begin and end tokens out of text in both directions", () => {
  expect(decodeAll(tokenizer, [0, ...tokenizer.encode("a"), 1])).toBe("a");
  expect(tokenizer.encode("<|begin|><|end|>").filter((id) => id < 2)).toEqual([]);
});
