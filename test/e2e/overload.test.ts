import { afterAll, beforeAll, expect, it } from "vitest";
import { RallyError } from "../../infra/errors.ts";
import { startDeployment, type TestDeployment } from "../support/deployment.ts";

let deployment: TestDeployment;
beforeAll(async () => {
  deployment = await startDeployment({ limits: { maxSequences: 2 } });
});
afterAll(() => deployment?.stop());

const prompt = "Once upon a time";

it("a request that could not be done in time is refused at once and leaves no trace; the others are served", async () => {
  const { client } = deployment;
  const busy = Array.from({ length: 6 }, (_, seed) =>
    client.generate({ prompt, maxTokens: 300, sampling: { temperature: 0.5, seed }, deadlineMs: 120_000 }),
  );
  const attempt = async () => {
    const { requestId, result } = client.generate({ prompt, maxTokens: 300, deadlineMs: 1_000 });
    const from = performance.now();
    const error = RallyError.from(await result.catch((thrown: unknown) => thrown));
    return { requestId, code: error.code, fields: error.fields, ms: performance.now() - from };
  };
  let refused = await attempt();
  // Until the actor knows how fast it is, and has looked at the queue.
  await expect
    .poll(async () => (refused = await attempt()).code, { timeout: 60_000, interval: 100 })
    .toBe("overloaded");
  expect(refused.fields["retryAfterMs"]).toBeGreaterThanOrEqual(1_000);
  // Its deadline is a second away.
  expect(refused.ms).toBeLessThan(900);
  await expect(client.resume(refused.requestId).result).rejects.toMatchObject({ code: "unknown-request" });
  for (const { result } of busy) expect((await result).outputTokens).toBeGreaterThan(0);
  expect((await client.generate({ prompt, maxTokens: 5, deadlineMs: 10_000 }).result).outputTokens).toBe(5);
});
