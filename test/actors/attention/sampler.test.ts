import { describe, expect, it } from "vitest";
import { Sampler } from "../../../actors/attention/sampler.ts";
import { type EngineRequest, type EngineToken, sequenceOf } from "../../../actors/attention/sequence.ts";
import type { ModelConfig } from "../../../models/config.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../../../models/sampling/params.ts";
import { TestRandom } from "../../support/random-values.ts";

const VOCAB = 64;
const CONFIG: ModelConfig = {
  family: "step3",
  hiddenSize: 8,
  numLayers: 1,
  vocabSize: VOCAB,
  contextLength: 128,
  rmsNormEps: 1e-5,
  numHeads: 1,
  headDim: 8,
  shareQDim: 8,
  ropeTheta: 1e4,
  layerKinds: ["dense"],
  numExperts: 1,
  topK: 1,
  expertDim: 8,
  sharedExpertDim: 8,
  denseDim: 8,
  bosTokenId: undefined,
  eosTokenIds: [62, 63],
};

const GREEDY: SamplingParams = { ...DEFAULT_SAMPLING, temperature: 0, topP: 1 };

function requestOf(change: Partial<EngineRequest> = {}): EngineRequest {
  return {
    key: 9,
    tokenIds: [1, 2, 3],
    numPromptTokens: 3,
    maxTokens: 20,
    sampling: GREEDY,
    logprobs: undefined,
    ...change,
  };
}

/** Logits that depend on the last token, as a model's would. */
function model(tokenIds: readonly number[]): Float32Array {
  const random = new TestRandom(1000 + tokenIds.length * 64 + (tokenIds.at(-1) ?? 0));
  return Float32Array.from({ length: VOCAB }, (_, id) => (CONFIG.eosTokenIds.includes(id) ? -30 : random.normal() * 2));
}

function generate(request: EngineRequest, count: number): EngineToken[] {
  const sampler = new Sampler(request, CONFIG);
  const sequence = sequenceOf(request);
  const tokens: EngineToken[] = [];
  while (tokens.length < count) {
    const token = sampler.next(sequence, model(sequence.tokenIds));
    sequence.tokenIds.push(token.id);
    tokens.push(token);
    if (token.finish !== undefined) break;
  }
  return tokens;
}

function peak(id: number): Float32Array {
  return new Float32Array(VOCAB).fill(-1).with(id, 5);
}

describe("Sampler", () => {
  it("numbers output tokens and says whose they are", () => {
    expect(generate(requestOf(), 3)).toMatchObject([
      { key: 9, index: 0 },
      { key: 9, index: 1 },
      { key: 9, index: 2 },
    ]);
  });

  it("ends at maxTokens, those of an earlier owner included", () => {
    expect(generate(requestOf({ maxTokens: 4 }), 10).map(({ finish }) => finish)).toEqual([
      undefined,
      undefined,
      undefined,
      "length",
    ]);
    const resumed = requestOf({ maxTokens: 4, tokenIds: [1, 2, 3, 7, 8, 9] });
    expect(generate(resumed, 10)).toMatchObject([{ index: 3, finish: "length" }]);
  });

  it.each([62, 63])("ends at end-of-sequence token %d, also as the last one allowed", (id) => {
    for (const maxTokens of [1, 5]) {
      const request = requestOf({ maxTokens });
      expect(new Sampler(request, CONFIG).next(sequenceOf(request), peak(id))).toEqual({
        key: 9,
        index: 0,
        id,
        finish: "eos",
      });
    }
  });

  it.each<[string, Partial<SamplingParams>]>([
    ["greedy", { temperature: 0 }],
    ["greedy with a penalty", { temperature: 0, repetitionPenalty: 1.8 }],
    ["seeded", { temperature: 1.2, topK: 20, topP: 0.9, minP: 0.02, repetitionPenalty: 1.3, seed: 77 }],
  ])("goes on bitwise the same for a new owner: %s", (_, sampling) => {
    const request = requestOf({ sampling: { ...GREEDY, ...sampling }, logprobs: 3 });
    const whole = generate(request, 20);
    for (const taken of [0, 1, 7, 19]) {
      const tokenIds = [...request.tokenIds, ...whole.slice(0, taken).map(({ id }) => id)];
      expect(generate({ ...request, tokenIds }, 20)).toEqual(whole.slice(taken));
    }
  });

  it("penalizes what is in the prompt and each token once it is out", () => {
    const request = requestOf({ sampling: { ...GREEDY, repetitionPenalty: 2 } });
    const sampler = new Sampler(request, CONFIG);
    const sequence = sequenceOf(request);
    const logits = new Float32Array(VOCAB).with(1, 4).with(10, 3).with(11, 2.5);
    const ids = [0, 1, 2].map(() => {
      const { id } = sampler.next(sequence, logits);
      sequence.tokenIds.push(id);
      return id;
    });
    // 1 is in the prompt: 4 / 2 < 3; then 10 is out: 3 / 2 < 2.5; then 11 is out: 2.5 / 2 < 4 / 2.
    expect(ids).toEqual([10, 11, 1]);
  });

  it("reports logprobs of the model itself, only if asked", () => {
    const logits = new Float32Array(VOCAB).with(1, 4).with(10, 3);
    const sampling = { ...GREEDY, repetitionPenalty: 2 };
    const request = requestOf({ sampling, logprobs: 2 });
    const token = new Sampler(request, CONFIG).next(sequenceOf(request), logits);
    const total = Math.log(Math.exp(4) + Math.exp(3) + VOCAB - 2);
    expect(token.id).toBe(10);
    expect(token.logprob?.logprob).toBeCloseTo(3 - total, 12);
    expect(token.logprob?.top.map(([id]) => id)).toEqual([1, 10]);
    const none = requestOf({ sampling, logprobs: 0 });
    expect(new Sampler(none, CONFIG).next(sequenceOf(none), logits).logprob?.top).toEqual([]);
    expect(new Sampler(requestOf(), CONFIG).next(sequenceOf(requestOf()), logits)).not.toHaveProperty("logprob");
  });

  it("refuses logits that are not numbers", () => {
    const request = requestOf();
    const poisoned = new Float32Array(VOCAB).with(40, Number.NaN);
    expect(() => new Sampler(request, CONFIG).next(sequenceOf(request), poisoned)).toThrow(
      expect.objectContaining({ code: "session-failed", fields: { found: "NaN", id: 40 } }),
    );
  });
});
