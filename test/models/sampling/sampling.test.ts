import { describe, expect, it } from "vitest";
import { logprobsOf } from "../../../models/sampling/logprobs.ts";
import { DEFAULT_SAMPLING, type SamplingParams, validateSampling } from "../../../models/sampling/params.ts";
import { philox4x32, uniform } from "../../../models/sampling/random.ts";
import { sampleToken } from "../../../models/sampling/sample.ts";
import { largest } from "../../../models/sampling/select.ts";
import { TestRandom } from "../../support/random-values.ts";

const NEUTRAL: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

/** The filters one after the other over a fully sorted list; probabilities of the ids that may be drawn. */
function naive(logits: Float32Array, params: SamplingParams, seen?: Uint8Array): Map<number, number> {
  const { repetitionPenalty, temperature, topK, topP, minP } = params;
  const scores = [...logits].map((logit, id) => {
    const penalized = seen?.[id] !== 1 ? logit : logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    return { id, score: penalized };
  });
  scores.sort((a, b) => b.score - a.score || a.id - b.id);
  const [best] = scores;
  if (best === undefined) throw new Error("no logits");
  if (temperature === 0) return new Map([[best.id, 1]]);
  let kept = scores.map(({ id, score }) => ({ id, weight: Math.exp((score - best.score) / temperature) }));
  if (topK > 0) kept = kept.slice(0, topK);
  if (topP < 1) {
    const total = kept.reduce((sum, { weight }) => sum + weight, 0);
    let mass = 0;
    kept = kept.filter(({ weight }) => {
      const isWanted = mass < topP * total;
      mass += weight;
      return isWanted;
    });
  }
  kept = kept.filter(({ weight }) => weight >= minP);
  const total = kept.reduce((sum, { weight }) => sum + weight, 0);
  return new Map(kept.map(({ id, weight }) => [id, weight / total]));
}

const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");

function randomLogits(random: TestRandom, size: number, spread = 2): Float32Array {
  return Float32Array.from({ length: size }, () => random.normal() * spread);
}

function counts(logits: Float32Array, params: SamplingParams, draws: number, seen?: Uint8Array): Map<number, number> {
  const result = new Map<number, number>();
  for (let position = 0; position < draws; position++) {
    const id = sampleToken(logits, params, position, seen);
    result.set(id, (result.get(id) ?? 0) + 1);
  }
  return result;
}

describe("randomness", () => {
  it("is Philox4x32-10, by the test vectors of its authors", () => {
    const ones = 0xffffffff;
    expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(hex(philox4x32([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    expect(hex(philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });

  it("is decided by seed and position alone, in all their bits", () => {
    const pairs = [0, 1, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER].flatMap((a) =>
      [0, 1, 2 ** 40].flatMap((b): [number, number][] => [
        [a, b],
        [b, a],
      ]),
    );
    const values = new Map(pairs.map(([seed, position]) => [`${seed},${position}`, uniform(seed, position)]));
    expect(values.size).toBeGreaterThan(20);
    expect(new Set(values.values()).size).toBe(values.size);
    for (const [seed, position] of pairs) expect(uniform(seed, position)).toBe(values.get(`${seed},${position}`));
  });

  it("is uniform along positions and along seeds", () => {
    for (const draw of [(i: number) => uniform(7, i), (i: number) => uniform(i, 7)]) {
      const bins = Array.from({ length: 100 }, () => 0);
      for (let i = 0; i < 50_000; i++) {
        const value = draw(i);
        if (!(value >= 0 && value < 1)) throw new Error(`${value} is outside [0, 1)`);
        const bin = Math.floor(value * 100);
        bins[bin] = (bins[bin] ?? 0) + 1;
      }
      const chiSquare = bins.reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0);
      // 99 degrees of freedom: 149 is exceeded once in a thousand.
      expect(chiSquare).toBeLessThan(149);
      expect(chiSquare).toBeGreaterThan(55);
    }
  });
});

describe("selection of the largest", () => {
  it("equals a full sort, ties by the lower id", () => {
    const random = new TestRandom(6);
    for (let n = 0; n < 300; n++) {
      const values = Float32Array.from({ length: random.below(60) }, () => random.below(8) - 4);
      const sorted = [...values.keys()].sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0) || a - b);
      for (const count of [0, 1, 3, 17, values.length, values.length + 5]) {
        expect([...largest(values, count)]).toEqual(sorted.slice(0, count));
      }
    }
  });

  it("takes values without a bottom", () => {
    expect([...largest(Float32Array.of(-Infinity, 1, -Infinity, Infinity), 3)]).toEqual([3, 1, 0]);
  });
});

describe("greedy", () => {
  it("takes the largest logit, the lowest id of equals", () => {
    expect(sampleToken(Float32Array.of(1, 3, 2, 3), { ...NEUTRAL, temperature: 0 }, 5)).toBe(1);
    expect(sampleToken(Float32Array.of(-Infinity, -5), { ...NEUTRAL, temperature: 0 }, 5)).toBe(1);
  });

  it("after the penalty", () => {
    const params = { ...NEUTRAL, temperature: 0, repetitionPenalty: 1.5 };
    expect(sampleToken(Float32Array.of(3, 2.5, 1), params, 0, Uint8Array.of(1, 0, 0))).toBe(1);
    expect(sampleToken(Float32Array.of(-2, -2.5), params, 0, Uint8Array.of(1, 0))).toBe(1);
    expect(sampleToken(Float32Array.of(3, 2.5, 1), params, 0, Uint8Array.of(1, 1, 0))).toBe(0);
  });

  it("ignores the filters", () => {
    const params = { ...NEUTRAL, temperature: 0, topK: 1, topP: 0.01, minP: 0.99 };
    expect(sampleToken(Float32Array.of(1, 2), params, 0)).toBe(1);
  });
});

describe("each filter leaves what the definition leaves, in the right shares", () => {
  const cases: readonly (readonly [string, Partial<SamplingParams>])[] = [
    ["nothing set", {}],
    ["temperature below 1", { temperature: 0.5 }],
    ["temperature above 1", { temperature: 1.7 }],
    ["top-k", { topK: 5 }],
    ["top-k beyond the vocabulary", { topK: 1000 }],
    ["top-p", { topP: 0.7 }],
    ["a tiny top-p", { topP: 1e-9 }],
    ["min-p", { minP: 0.2 }],
    ["penalty", { repetitionPenalty: 1.4 }],
    ["a penalty below 1", { repetitionPenalty: 0.7 }],
    ["top-k before top-p", { topK: 4, topP: 0.6 }],
    ["all at once", { temperature: 0.9, topK: 12, topP: 0.9, minP: 0.05, repetitionPenalty: 1.3 }],
  ];
  it.each(cases)("%s", (name, change) => {
    const random = new TestRandom(name.length);
    for (const seed of [1, 2, 3]) {
      const logits = randomLogits(random, 40);
      const seen = Uint8Array.from({ length: 40 }, () => random.below(2));
      const params = { ...NEUTRAL, ...change, seed };
      const expected = naive(logits, params, seen);
      const draws = 4000;
      const found = counts(logits, params, draws, seen);
      let chiSquare = 0;
      let degrees = -1;
      let [rareExpected, rareFound] = [0, 0];
      for (const [id, share] of expected) {
        if (share * draws < 8) {
          rareExpected += share * draws;
          rareFound += found.get(id) ?? 0;
          continue;
        }
        chiSquare += ((found.get(id) ?? 0) - share * draws) ** 2 / (share * draws);
        degrees++;
      }
      if (rareExpected >= 8) {
        chiSquare += (rareFound - rareExpected) ** 2 / rareExpected;
        degrees++;
      }
      for (const id of found.keys()) expect(expected.has(id)).toBe(true);
      // Well beyond the one-in-a-thousand bound of chi-square for any number of degrees up to 40.
      const spread = Math.sqrt(2 * Math.max(0, degrees));
      expect(chiSquare).toBeLessThan(degrees + 4.5 * spread + 6);
    }
  });

  it("draws the same token as the inverse of the naive distribution function", () => {
    const random = new TestRandom(9);
    for (let n = 0; n < 2000; n++) {
      const logits = randomLogits(random, 1 + random.below(50), random.pick([0.1, 1, 5]));
      const seen = Uint8Array.from({ length: logits.length }, () => random.below(2));
      const params = {
        temperature: random.pick([0.3, 1, 2]),
        topK: random.pick([0, 1, 3, 20]),
        topP: random.pick([1, 0.95, 0.5]),
        minP: random.pick([0, 0.1]),
        repetitionPenalty: random.pick([1, 1.2]),
        seed: n,
      };
      const shares = [...naive(logits, params, seen)].sort((a, b) => a[0] - b[0]);
      let mass = 0;
      const u = uniform(n, 3);
      const expected = shares.find(([, share]) => (mass += share) > u) ?? shares.at(-1);
      expect([n, sampleToken(logits, params, 3, seen)]).toEqual([n, expected?.[0]]);
    }
  });

  it("a flat distribution over a large vocabulary, whose nucleus is most of it", () => {
    const random = new TestRandom(10);
    const logits = randomLogits(random, 20_000, 0.01);
    const params = { ...NEUTRAL, topP: 0.9 };
    const expected = naive(logits, params);
    expect(expected.size).toBeGreaterThan(15_000);
    for (let position = 0; position < 200; position++) {
      expect(expected.has(sampleToken(logits, params, position))).toBe(true);
    }
  });

  it("equal logits: the lower ids are kept", () => {
    const logits = new Float32Array(1000).fill(0.5);
    const drawn = new Set(counts(logits, { ...NEUTRAL, topK: 3 }, 200).keys());
    expect([...drawn].sort((a, b) => a - b)).toEqual([0, 1, 2]);
    const nucleus = [...counts(logits, { ...NEUTRAL, topP: 0.4 }, 2000).keys()];
    expect(Math.max(...nucleus)).toBeLessThan(400);
    expect(Math.max(...nucleus)).toBeGreaterThan(350);
  });
});

describe("replays", () => {
  it("give the same tokens from any position on, whatever else was drawn", () => {
    const random = new TestRandom(11);
    const rows = Array.from({ length: 50 }, () => randomLogits(random, 300));
    const params = { ...DEFAULT_SAMPLING, seed: 42 };
    const all = rows.map((logits, position) => sampleToken(logits, params, position));
    const resumed = rows.slice(20).map((logits, i) => sampleToken(logits, params, 20 + i));
    expect(resumed).toEqual(all.slice(20));
    const otherSeed = rows.map((logits, position) => sampleToken(logits, { ...params, seed: 43 }, position));
    expect(otherSeed).not.toEqual(all);
  });

  it("leave the logits as they were", () => {
    const logits = randomLogits(new TestRandom(12), 100);
    const before = Float32Array.from(logits);
    sampleToken(logits, { ...DEFAULT_SAMPLING, repetitionPenalty: 1.5 }, 0, new Uint8Array(100).fill(1));
    expect(logits).toEqual(before);
  });
});

describe("logits that are not numbers end the request instead of giving a token", () => {
  it.each([
    ["NaN first", [Number.NaN, 1, 2]],
    ["NaN last", [1, 2, Number.NaN]],
    ["infinite", [1, Infinity, 2]],
    ["all impossible", [-Infinity, -Infinity]],
    ["none", []],
  ])("%s", (_, logits) => {
    for (const temperature of [0, 1]) {
      expect(() => sampleToken(Float32Array.from(logits), { ...NEUTRAL, temperature }, 0)).toThrow(
        expect.objectContaining({ name: "RallyError", code: "session-failed" }),
      );
    }
  });

  it("but impossible tokens among possible ones are just never drawn", () => {
    const found = counts(Float32Array.of(0, -Infinity, 0), { ...NEUTRAL, temperature: 2 }, 500);
    expect([...found.keys()].sort((a, b) => a - b)).toEqual([0, 2]);
  });

  it("and extreme temperatures are fine", () => {
    expect(sampleToken(Float32Array.of(3e38, -3e38, 1), { ...NEUTRAL, temperature: 1e-300 }, 0)).toBe(0);
  });
});

describe("logprobs", () => {
  it("are those of the model, in order, and sum to one", () => {
    const logits = randomLogits(new TestRandom(13), 500, 5);
    const { logprob, top } = logprobsOf(logits, 17, 500);
    expect(top.find(([id]) => id === 17)?.[1]).toBe(logprob);
    expect(top.reduce((sum, [, value]) => sum + Math.exp(value), 0)).toBeCloseTo(1, 12);
    expect(top.map(([id]) => id)).toEqual([...largest(logits, 500)]);
    const exact = Math.log(Math.exp(logits[17] ?? 0) / logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
    expect(logprob).toBeCloseTo(exact, 10);
    expect(logprobsOf(logits, 17, 0).top).toEqual([]);
  });

  it("never exceed 0", () => {
    expect(logprobsOf(Float32Array.of(1000, -1000), 0, 2)).toEqual({
      logprob: 0,
      top: [
        [0, 0],
        [1, -2000],
      ],
    });
  });
});

describe("sampling parameters", () => {
  it("take their defaults where left out", () => {
    expect(validateSampling(undefined)).toEqual(DEFAULT_SAMPLING);
    expect(validateSampling({ topK: 3, seed: null })).toEqual({ ...DEFAULT_SAMPLING, topK: 3 });
    expect(Object.is(validateSampling({ temperature: -0 }).temperature, 0)).toBe(true);
  });

  it.each([
    { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 2, seed: 0 },
    {
      temperature: 2,
      topK: 1_000_000,
      topP: 1e-9,
      minP: 0.999,
      repetitionPenalty: 0.01,
      seed: Number.MAX_SAFE_INTEGER,
    },
  ])("take their limits: %j", (params) => {
    expect(validateSampling(params)).toEqual(params);
  });

  it.each([
    ["temperature", -0.01],
    ["temperature", 2.01],
    ["temperature", Number.NaN],
    ["temperature", "1"],
    ["topK", -1],
    ["topK", 1.5],
    ["topK", 1_000_001],
    ["topP", 0],
    ["topP", 1.01],
    ["minP", 1],
    ["minP", -0.1],
    ["repetitionPenalty", 0],
    ["repetitionPenalty", 2.1],
    ["seed", -1],
    ["seed", 0.5],
    ["seed", 2 ** 53],
    ["seed", 2n ** 60n],
    ["colour", 1],
  ])("refuse %s %s", (field, value) => {
    expect(() => validateSampling({ [field]: value })).toThrow(
      expect.objectContaining({ code: "bad-request", fields: expect.objectContaining({ field: `sampling.${field}` }) }),
    );
  });
});
