import { describe, expect, it } from "vitest";
import { startDeployment } from "../support/deployment.ts";
import { mixedRequests, tokensOf } from "../support/requests.ts";

/** Promises 1 to 3 when a process dies in the middle. */
describe("failover", () => {
  const requests = mixedRequests(16).map((request) => ({ ...request, maxTokens: request.maxTokens + 40 }));

  it("ends every request with the same tokens when actors are killed", { timeout: 180_000 }, async () => {
    const deployment = await startDeployment({ numAttention: 2, numShards: 2, numReplicas: 2 });
    try {
      const expected = await tokensOf(deployment.client, requests, 8);
      const killed: number[] = [];
      const kill = async (role: "attention" | "expert") => {
        const before = deployment.supervisor.pids;
        const index = role === "attention" ? 0 : 2;
        const pid = before[index];
        if (pid === undefined) return;
        process.kill(pid, "SIGKILL");
        killed.push(pid);
      };
      const serving = tokensOf(deployment.client, requests, 8);
      for (const role of ["expert", "attention", "expert"] as const) {
        await new Promise((resolve) => setTimeout(resolve, 700));
        await kill(role);
      }
      expect(await serving).toEqual(expected);
      expect(killed).toHaveLength(3);
    } finally {
      await deployment.stop();
    }
  });
});
