import type { GenerateOptions, RallyClient } from "../../actors/client/rally-client.ts";

const PROMPTS = [
  "Once upon a time",
  "The king had three daughters, and the youngest of them",
  "It was a dark night, and the wind",
  "“Who are you?” said the fox.",
  "In the year 1851 a ship left the harbour of Bristol with forty men on board, of whom only one",
  "A",
  "The old woman sat by the fire and told the children how",
  "My dear Sir,\n\nI have the honour to",
];

/** Requests that differ in prompt, length and sampling; half of them greedy. The same ones for every run. */
export function mixedRequests(count: number): GenerateOptions[] {
  return Array.from({ length: count }, (_, i) => ({
    prompt: PROMPTS[i % PROMPTS.length] as string,
    maxTokens: 12 + ((i * 11) % 29),
    sampling: {
      temperature: i % 2 === 0 ? 0 : 0.9,
      topP: i % 3 === 0 ? 1 : 0.9,
      topK: i % 5 === 0 ? 40 : 0,
      repetitionPenalty: i % 4 === 3 ? 1.1 : 1,
      seed: i * 7919,
    },
  }));
}

/** Token ids of every request, with at most `concurrency` under way at once. */
export async function tokensOf(
  client: RallyClient,
  requests: readonly GenerateOptions[],
  concurrency: number,
): Promise<(readonly number[])[]> {
  const results: (readonly number[])[] = Array.from({ length: requests.length }, () => []);
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < requests.length; i = next++) {
      results[i] = (await client.generate(requests[i] as GenerateOptions).result).tokenIds;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  return results;
}
