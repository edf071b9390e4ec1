import type { Pass } from "../../models/stages.ts";

/** One layer's visit of a micro-batch to the experts. */
export interface Trip {
  /** Grows with every pass of this attention actor; answers to an older one are dropped. */
  readonly passId: number;
  readonly microBatch: number;
  readonly layer: number;
  readonly pass: Pass;
}

/**
 * Where the layer loop sends a micro-batch after attention. `remote-ffn` dispatches to expert actors and combines what they
 * answer; `local-ffn` computes in place (monolith, tests).
 */
export interface FfnSide {
  /**
   * Sees to it that `pass.hidden = residual + shared expert + Σ shards`, then calls `done` with the error, if any. Never calls back before
   * it returns. Throws when the trip cannot even begin; then `done` is not called. Whoever computes in this very thread
   * returns a promise for the end of that: until then nothing else is computed here.
   */
  forward(trip: Trip, done: (error?: Error) => void): void | Promise<void>;
  /** Gives up on the trip of a micro-batch, if it makes one: `done` will not be called, its pass not written any more. */
  abandon(microBatch: number): void;
  /** Dispatches without an answer and credits taken: both 0 when idle. */
  readonly pending: number;
  readonly creditsInUse: number;
}

/**
 * hidden = base + (…(shard0 + shard1) + …), always in shard order and rounded to f32 after each addition, so that arrival
 * order cannot change a bit. `base` is the residual, with the shared expert where that is computed beside the attention. All arrays
 * [numTokens * hiddenSize]; `outputs[0]` is used up.
 */
export function combine(hidden: Float32Array, base: Float32Array, outputs: readonly Float32Array[]): void {
  const [sum, ...others] = outputs;
  const last = others.pop();
  if (sum === undefined) return;
  if (last === undefined) return add(hidden, base, sum);
  for (const output of others) add(sum, sum, output);
  addBoth(hidden, base, sum, last);
}

function add(target: Float32Array, a: Float32Array, b: Float32Array): void {
  for (let i = 0; i < target.length; i++) target[i] = (a[i] as number) + (b[i] as number);
}

/** One pass over memory instead of two: with two shards, the usual number, it takes a third of the time. */
function addBoth(target: Float32Array, base: Float32Array, a: Float32Array, b: Float32Array): void {
  for (let i = 0; i < target.length; i++) {
    target[i] = (base[i] as number) + Math.fround((a[i] as number) + (b[i] as number));
  }
}
