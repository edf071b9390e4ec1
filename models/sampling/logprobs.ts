import { largest } from "./select.ts";

/**
 * Natural logarithms of the model's own probabilities: before penalty, temperature and filters, whatever the draw went by.
 * `top`: the `count` likeliest, the lower id first among equals.
 */
export function logprobsOf(
  logits: Float32Array, // [vocabSize]
  id: number,
  count: number,
): { readonly logprob: number; readonly top: readonly (readonly [number, number])[] } {
  let most = -Infinity;
  for (let i = 0; i < logits.length; i++) most = Math.max(most, logits[i] as number);
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += Math.exp((logits[i] as number) - most);
  const logTotal = most + Math.log(total);
  const of = (token: number): number => (logits[token] as number) - logTotal;
  return { logprob: of(id), top: Array.from(largest(logits, count), (token) => [token, of(token)] as const) };
}
