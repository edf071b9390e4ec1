import type { GenerateOptions, Generation, RallyClient } from "../../actors/client/rally-client.ts";
import { mixedRequests } from "./requests.ts";

/** Requests that are under way when something happens to the deployment, long enough for it to happen to them. */
export function longRequests(count: number, extraTokens: number): GenerateOptions[] {
  return mixedRequests(count).map((request) => ({
    ...request,
    maxTokens: request.maxTokens + extraTokens,
    deadlineMs: 240_000,
  }));
}

export interface Load {
  readonly generations: readonly Generation[];
  readonly results: Promise<(readonly number[])[]>;
  /** Resolves once every request has this many tokens, or is over. */
  underWay(numTokens: number): Promise<void>;
}

/** All requests at once. */
export function startLoad(client: RallyClient, requests: readonly GenerateOptions[]): Load {
  const generations = requests.map((request) => client.generate(request));
  const results = Promise.all(generations.map(async ({ result }) => (await result).tokenIds));
  results.catch(() => undefined);
  return {
    generations,
    results,
    async underWay(numTokens) {
      const over = results.then(
        () => true,
        () => true,
      );
      while (generations.some(({ tokens }) => tokens.length < numTokens)) {
        if (await Promise.race([over, sleep(20).then(() => false)])) return;
      }
    },
  };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
