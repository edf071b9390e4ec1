import { systemClock } from "../../../infra/clock.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import type { RallyClient } from "../../client/rally-client.ts";
import type { TokenTimes } from "./figures.ts";
import type { BenchRequest } from "./workload.ts";

/** All requests at once through a deployment; resolves when every one has ended. Times are the client's, over NATS. */
export function afdRound(
  client: RallyClient,
  requests: readonly BenchRequest[],
  maxTokens: number,
): Promise<TokenTimes[]> {
  return Promise.all(
    requests.map(async ({ tokenIds, seed }) => {
      const sentAt = systemClock.elapsed();
      const arrivals: number[] = [];
      const sampling = { ...DEFAULT_SAMPLING, temperature: 0, seed };
      for await (const _ of client.generate({ prompt: tokenIds, maxTokens, sampling })) {
        arrivals.push(systemClock.elapsed());
      }
      return { sentAt, arrivals };
    }),
  );
}
