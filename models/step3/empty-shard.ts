import type { FfnBatch, FfnShard, ShardSpec } from "../stages.ts";

/** A shard that a placement gives no experts: it adds nothing. */
export class EmptyShard implements FfnShard {
  readonly spec: ShardSpec;

  constructor(spec: ShardSpec) {
    this.spec = spec;
  }

  static fits({ experts, withoutShared = false }: ShardSpec): boolean {
    return withoutShared && experts.length === 0;
  }

  async forward({ numTokens, hidden }: FfnBatch, output: Float32Array): Promise<void> {
    const hiddenSize = hidden.length / numTokens;
    output.fill(0, 0, numTokens * hiddenSize);
  }

  async release(): Promise<void> {}
}
