import { afterAll, describe, expect, it } from "vitest";
import type { GenerateOptions } from "../../actors/client/rally-client.ts";
import type { Topology } from "../../actors/supervisor/topology.ts";
import { allowedCores } from "../../infra/cores.ts";
import { Sampler } from "../../actors/attention/sampler.ts";
import { sequenceOf } from "../../actors/attention/sequence.ts";
import { Reference } from "../../models/reference.ts";
import { validateSampling } from "../../models/sampling/params.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { BUNDLED_MODEL, startDeployment } from "../support/deployment.ts";
import { mixedRequests, tokensOf } from "../support/requests.ts";

/** Promise 1: greedy and seeded tokens are the same whatever serves them, and they are the reference's. */
describe("same tokens", () => {
  const requests = mixedRequests(16);
  const expected: (readonly number[])[] = [];
  const topologies: Partial<Topology>[] = [
    { numShards: 1, microBatches: 1 },
    { numShards: 2, microBatches: 2 },
    { numShards: 2, microBatches: 4, numAttention: 2 },
    { numShards: 3, microBatches: 2 },
    { numShards: 2, microBatches: 2, sharedExperts: "experts" },
    { numShards: 2, microBatches: "auto", numReplicas: 2 },
    { numShards: 1, microBatches: 1, turns: allowedCores() ?? [0] },
  ];

  it.each(topologies)("with %o, one at a time and 16 at once", { timeout: 120_000 }, async (topology) => {
    const deployment = await startDeployment(topology);
    try {
      const together = await tokensOf(deployment.client, requests, 16);
      if (expected.length === 0) expected.push(...together);
      expect(together).toEqual(expected);
      // Every fourth alone: the others' company must not matter.
      const alone = requests.filter((_, i) => i % 4 === 0);
      expect(await tokensOf(deployment.client, alone, 1)).toEqual(expected.filter((_, i) => i % 4 === 0));
      expect(deployment.warnings).toEqual([]);
    } finally {
      await deployment.stop();
    }
  });

  it("as the reference chooses them", { timeout: 180_000 }, async () => {
    const reference = new Reference(BUNDLED_MODEL);
    const tokenizer = await loadTokenizer(BUNDLED_MODEL);
    expect(expected).toHaveLength(requests.length);
    // The reference takes about a second per request; half of them cover every kind of sampling.
    for (const [i, request] of requests.slice(0, 8).entries()) {
      const prompt = promptIds(request, tokenizer.encode.bind(tokenizer), reference.config.bosTokenId);
      const output = expected[i] ?? [];
      const { logits } = reference.forward([...prompt, ...output]);
      const { vocabSize } = reference.config;
      const engineRequest = {
        key: i,
        tokenIds: prompt,
        numPromptTokens: prompt.length,
        maxTokens: request.maxTokens,
        sampling: validateSampling(request.sampling),
        logprobs: undefined,
      };
      const sampler = new Sampler(engineRequest, reference.config);
      const sequence = sequenceOf(engineRequest);
      for (let step = 0; step < output.length; step++) {
        const row = prompt.length - 1 + step;
        const token = sampler.next(
          sequence,
          Float32Array.from(logits.subarray(row * vocabSize, (row + 1) * vocabSize)),
        );
        sequence.tokenIds.push(token.id);
      }
      expect(sequence.tokenIds.slice(prompt.length), `request ${i}`).toEqual(output);
    }
  });

  afterAll(() => {
    expected.length = 0;
  });
});

function promptIds(
  request: GenerateOptions,
  encode: (text: string) => number[],
  bosTokenId: number | undefined,
): readonly number[] {
  if (typeof request.prompt !== "string") return request.prompt;
  const ids = encode(request.prompt);
  return bosTokenId === undefined ? ids : [bosTokenId, ...ids];
}
