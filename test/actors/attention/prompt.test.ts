import { describe, expect, it } from "vitest";
import { promptIds } from "../../../actors/attention/prompt.ts";
import { fakeConfig } from "../../support/fake-model.ts";
import { FakeTokenizer } from "../../support/fake-tokenizer.ts";

const tokenizer = new FakeTokenizer();
const withoutBos = { ...fakeConfig, bosTokenId: undefined };

describe("promptIds", () => {
  it("puts the model's BOS before text, and takes ids as they are", () => {
    expect(promptIds({ prompt: "ab", maxTokens: 5 }, tokenizer, fakeConfig)).toEqual([0, ...tokenizer.encode("ab")]);
    expect(promptIds({ prompt: "ab", maxTokens: 5 }, tokenizer, withoutBos)).toEqual(tokenizer.encode("ab"));
    expect(promptIds({ prompt: [7, 0, 96], maxTokens: 5 }, tokenizer, fakeConfig)).toEqual([7, 0, 96]);
  });

  it("refuses a prompt without any token", () => {
    for (const prompt of ["", []]) {
      expect(() => promptIds({ prompt, maxTokens: 5 }, tokenizer, withoutBos)).toThrow(
        expect.objectContaining({ code: "bad-request", fields: { field: "prompt", found: 0 } }),
      );
    }
  });

  it("counts the BOS when it measures what fits", () => {
    const fits = { prompt: "x".repeat(180), maxTokens: 11 };
    expect(promptIds(fits, tokenizer, fakeConfig)).toHaveLength(181);
    const over = { ...fits, maxTokens: 12 };
    expect(() => promptIds(over, tokenizer, fakeConfig)).toThrow(expect.objectContaining({ code: "context-exceeded" }));
    expect(promptIds(over, tokenizer, withoutBos)).toHaveLength(180);
  });

  it("tells the tokenizer how many tokens are of use, and asks nothing when none is", () => {
    const limits: (number | undefined)[] = [];
    const watching = {
      vocabSize: 97,
      decodeStream: () => tokenizer.decodeStream(),
      encode: (text: string, maxTokens?: number) => {
        limits.push(maxTokens);
        return tokenizer.encode(text);
      },
    };
    promptIds({ prompt: "ab", maxTokens: 100 }, watching, fakeConfig);
    expect(() => promptIds({ prompt: "ab", maxTokens: 192 }, watching, fakeConfig)).toThrow(
      expect.objectContaining({ code: "context-exceeded", fields: expect.objectContaining({ limit: 192 }) }),
    );
    expect(limits).toEqual([91]);
  });

  it("refuses ids beyond the vocabulary", () => {
    expect(() => promptIds({ prompt: [3, 97], maxTokens: 5 }, tokenizer, fakeConfig)).toThrow(
      expect.objectContaining({ code: "bad-request", fields: { field: "prompt", found: 97, limit: 96 } }),
    );
  });
});
