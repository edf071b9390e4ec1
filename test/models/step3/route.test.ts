import { expect, it } from "vitest";
import { route } from "../../../models/step3/route.ts";

it("takes the k most likely experts, the lower first among equals, without renormalising", () => {
  const logits = Float32Array.of(1, 3, 2, 3, -1, 0, 0, 0, 0, 0, -2, 5, 4, 3, 6);
  const [ids, weights] = [new Int32Array(9), new Float32Array(9)];
  route(logits, 5, 3, ids, weights);
  expect([...ids]).toEqual([1, 3, 2, 0, 1, 2, 4, 1, 2]);
  const sum = [1, 3, 2, 3, -1].reduce((total, logit) => total + Math.exp(logit), 0);
  expect(weights[0]).toBeCloseTo(Math.exp(3) / sum, 6);
  expect(weights[2]).toBeCloseTo(Math.exp(2) / sum, 6);
  expect([...weights.subarray(3, 6)]).toEqual([0.2, 0.2, 0.2].map(Math.fround));
});

it("agrees with sorting on random logits and survives large ones", () => {
  const [numExperts, topK, numTokens] = [8, 8, 200];
  const logits = Float32Array.from({ length: numTokens * numExperts }, (_, i) => Math.sin(i * 12.9898) * 500);
  const [ids, weights] = [new Int32Array(numTokens * topK), new Float32Array(numTokens * topK)];
  route(logits, numExperts, topK, ids, weights);
  for (let token = 0; token < numTokens; token++) {
    const row = [...logits.subarray(token * numExperts, (token + 1) * numExperts)];
    const order = [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number) || a - b);
    expect([...ids.subarray(token * topK, (token + 1) * topK)]).toEqual(order);
    const total = weights.subarray(token * topK, (token + 1) * topK).reduce((sum, weight) => sum + weight, 0);
    expect(total).toBeCloseTo(1, 5);
  }
});
