import type { KvSlots } from "../../models/kv-cache.ts";
import type { AttentionStages, FfnShard, Pass, SharedExperts } from "../../models/stages.ts";

/** The one-process loop over a model's stages: what a monolith does, without scheduling or sampling. */
export class Forward {
  readonly stages: AttentionStages;
  readonly shards: readonly FfnShard[];
  readonly sharedExperts: SharedExperts | undefined;
  /** Milliseconds spent in each kind of stage. */
  readonly spent = { plan: 0, attend: 0, ffn: 0, combine: 0, head: 0 };
  #outputs: Float32Array[] = [];

  /** `sharedExperts`: for shards that are without. */
  constructor(stages: AttentionStages, shards: readonly FfnShard[], sharedExperts?: SharedExperts) {
    this.stages = stages;
    this.sharedExperts = sharedExperts;
    this.shards = shards;
  }

  cache(maxSlots: number): KvSlots {
    return this.stages.createCache(maxSlots);
  }

  /** Takes `chunk` tokens of each sequence through all layers. `observe` sees the pass after each layer's attention. */
  async pass(
    kv: KvSlots,
    tokenIds: readonly number[],
    pasts: readonly number[],
    options: { readonly firstSlot?: number; readonly observe?: (pass: Pass, layer: number) => void } = {},
  ): Promise<Pass> {
    const { firstSlot = 0, observe } = options;
    const chunk = tokenIds.length / pasts.length;
    const start = performance.now();
    kv.reserve(Math.max(...pasts) + chunk, kv.maxSlots);
    const pass = this.stages.plan({ kv, firstSlot, numSequences: pasts.length, chunk, pasts, tokenIds });
    this.spent.plan += performance.now() - start;
    for (let layer = 0; layer < this.stages.config.numLayers; layer++) {
      const from = performance.now();
      await this.stages.attend(pass, layer);
      this.spent.attend += performance.now() - from;
      observe?.(pass, layer);
      if (!this.stages.completes(layer)) await this.#ffn(pass, layer);
    }
    return pass;
  }

  /** Logits [rows.length, vocabSize] of some rows of a pass that went through. */
  async head(pass: Pass, rows: readonly number[]): Promise<Float32Array> {
    const from = performance.now();
    const logits = await this.stages.head(pass, rows);
    this.spent.head += performance.now() - from;
    return logits;
  }

  async release(): Promise<void> {
    await this.stages.release();
    for (const shard of this.shards) await shard.release();
    await this.sharedExperts?.release();
  }

  async #ffn(pass: Pass, layer: number): Promise<void> {
    const { numTokens, ffnInput: hidden, expertIds, expertWeights } = pass;
    const from = performance.now();
    const base = this.sharedExperts === undefined ? pass.residual : new Float32Array(hidden.length);
    await this.sharedExperts?.forward(pass, layer, base);
    for (const [s, shard] of this.shards.entries()) {
      if ((this.#outputs[s]?.length ?? 0) < hidden.length) this.#outputs[s] = new Float32Array(hidden.length);
      const output = (this.#outputs[s] as Float32Array).subarray(0, hidden.length);
      await shard.forward({ layer, numTokens, hidden, expertIds, expertWeights }, output);
    }
    const middle = performance.now();
    for (let i = 0; i < hidden.length; i++) {
      let sum = (this.#outputs[0] as Float32Array)[i] as number;
      for (let s = 1; s < this.shards.length; s++) {
        sum = Math.fround(sum + ((this.#outputs[s] as Float32Array)[i] as number));
      }
      pass.hidden[i] = (base[i] as number) + sum;
    }
    this.spent.ffn += middle - from;
    this.spent.combine += performance.now() - middle;
  }
}
