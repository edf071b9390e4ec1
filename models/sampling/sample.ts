import { assert, RallyError } from "../../infra/errors.ts";
import { keepAtLeast, keepNucleus } from "./filters.ts";
import type { SamplingParams } from "./params.ts";
import { uniform } from "./random.ts";
import { largest } from "./select.ts";

/**
 * The next token. Filters in the order of Hugging Face's generate(): repetition penalty, temperature, top-k, top-p over what
 * top-k left, min-p; of equals the lower id stays. Then one draw over what is left in the order of ids, decided by
 * (seed, position) alone. Doubles throughout. `seen` marks the ids that the penalty applies to [vocabSize].
 * RallyError `session-failed` if the logits are not numbers.
 */
export function sampleToken(
  logits: Float32Array, // [vocabSize]
  params: SamplingParams,
  position: number,
  seen?: Uint8Array,
): number {
  const scores = seen === undefined ? logits : penalized(logits, params.repetitionPenalty, seen);
  const best = likeliest(scores);
  if (params.temperature === 0) return best;
  // Undefined: all of them. Ascending, for the sake of equals.
  const ids = params.topK > 0 && params.topK < scores.length ? largest(scores, params.topK).sort() : undefined;
  const weights = weightsOf(scores, ids, best, params.temperature);
  if (params.topP < 1) keepNucleus(weights, params.topP);
  if (params.minP > 0) keepAtLeast(weights, params.minP);
  const drawn = draw(weights, uniform(params.seed, position));
  return ids === undefined ? drawn : (ids[drawn] as number);
}

/** Of equals the lowest id. */
function likeliest(scores: Float32Array | Float64Array): number {
  let best = -1;
  let most = -Infinity;
  for (let from = 0; from < scores.length; from += 4) {
    // Nearly all are less than what was found before; NaN is not.
    if (from + 4 <= scores.length && areAtMost(scores, from, most)) continue;
    for (let id = from; id < Math.min(from + 4, scores.length); id++) {
      const score = scores[id] as number;
      if (score <= most) continue;
      if (Number.isNaN(score)) throw notNumbers("NaN", id);
      most = score;
      best = id;
    }
  }
  if (best < 0 || most === Infinity) throw notNumbers(String(most), best);
  return best;
}

/** Whether the four scores from there on are. */
function areAtMost(scores: Float32Array | Float64Array, from: number, most: number): boolean {
  return (
    (scores[from] as number) <= most &&
    (scores[from + 1] as number) <= most &&
    (scores[from + 2] as number) <= most &&
    (scores[from + 3] as number) <= most
  );
}

/** Softmax numerators of `ids`, the likeliest token's being 1. [ids.length] */
function weightsOf(
  scores: Float32Array | Float64Array,
  ids: Int32Array | undefined,
  best: number,
  temperature: number,
): Float64Array {
  const most = scores[best] as number;
  const weights = new Float64Array(ids?.length ?? scores.length);
  for (let i = 0; i < weights.length; i++) {
    const score = scores[ids === undefined ? i : (ids[i] as number)] as number;
    weights[i] = Math.exp((score - most) / temperature);
  }
  return weights;
}

/** Index of the weight that `u` falls on. */
function draw(weights: Float64Array, u: number): number {
  let total = 0;
  for (let i = 0; i < weights.length; i++) total += weights[i] as number;
  const target = u * total;
  let mass = 0;
  let last = -1;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight === 0) continue;
    mass += weight;
    last = i;
    if (mass > target) return i;
  }
  // u is below 1, so only rounding leads here.
  assert(last >= 0, "a filter leaves the likeliest token");
  return last;
}

function penalized(logits: Float32Array, penalty: number, seen: Uint8Array): Float64Array {
  const scores = Float64Array.from(logits);
  for (let id = 0; id < scores.length; id++) {
    if (seen[id] === 0) continue;
    const logit = scores[id] as number;
    scores[id] = logit < 0 ? logit * penalty : logit / penalty;
  }
  return scores;
}

function notNumbers(found: string, id: number): RallyError {
  return new RallyError("session-failed", `the model gave logit ${found} for token ${id}`, { found, id });
}
