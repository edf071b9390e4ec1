import { combine } from "../../actors/attention/ffn-side.ts";
import { Sampler } from "../../actors/attention/sampler.ts";
import { type EngineRequest, sequenceOf } from "../../actors/attention/sequence.ts";
import type { ModelConfig } from "../../models/config.ts";
import { fakeConfig, FakeShard, fakeSpecs, FakeStages } from "./fake-model.ts";

/** The tokens of one request computed alone, each from scratch: no batching, no chunks, no cache that outlives a token. */
export async function referenceTokens(request: EngineRequest, config: ModelConfig = fakeConfig): Promise<number[]> {
  const stages = new FakeStages(config);
  const shard = new FakeShard(fakeSpecs(1, config)[0] ?? { shard: 0, numShards: 1, experts: [] }, config);
  const sampler = new Sampler(request, config);
  const sequence = sequenceOf(request);
  for (;;) {
    const chunk = sequence.tokenIds.length;
    const kv = stages.createCache(1);
    kv.reserve(chunk, 1);
    const pass = stages.plan({ kv, firstSlot: 0, numSequences: 1, chunk, pasts: [0], tokenIds: sequence.tokenIds });
    const output = new Float32Array(pass.hidden.length);
    for (let layer = 0; layer < config.numLayers; layer++) {
      await stages.attend(pass, layer);
      const { numTokens, ffnInput: hidden, expertIds, expertWeights } = pass;
      await shard.forward({ layer, numTokens, hidden, expertIds, expertWeights }, output);
      combine(pass.hidden, pass.residual, [output]);
    }
    const logits = await stages.head(pass, [chunk - 1]);
    const token = sampler.next(sequence, logits.subarray(0, config.vocabSize));
    sequence.tokenIds.push(token.id);
    if (token.finish !== undefined) return sequence.tokenIds.slice(request.numPromptTokens);
  }
}
