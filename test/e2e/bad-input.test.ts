import { randomUUID } from "node:crypto";
import { connect, type NatsConnection } from "nats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import type { GenerateOptions } from "../../actors/client/rally-client.ts";
import { startDeployment, type TestDeployment } from "../support/deployment.ts";
import { mixedRequests, tokensOf } from "../support/requests.ts";
import { encodedSealed } from "../support/sealed.ts";

/** Promise 5: bad input is answered, not obeyed; promise 4: nothing leaks. */
describe("bad input", () => {
  let deployment: TestDeployment;
  let nats: NatsConnection;
  let pids: readonly number[];

  beforeAll(async () => {
    deployment = await startDeployment();
    nats = await connect({ servers: deployment.supervisor.nats.settings.url });
    pids = deployment.supervisor.pids;
  });
  afterAll(async () => {
    await nats?.close();
    await deployment?.stop();
  });

  const failure = async (options: GenerateOptions): Promise<RallyError> => {
    try {
      await deployment.client.generate(options).result;
    } catch (thrown) {
      return RallyError.from(thrown);
    }
    throw new Error("the request was served");
  };

  it("answers prompts that cannot be served with a typed error", async () => {
    const cases: [GenerateOptions, string][] = [
      [{ prompt: "", maxTokens: 5 }, "bad-request"],
      [{ prompt: [], maxTokens: 5 }, "bad-request"],
      [{ prompt: [999_999], maxTokens: 5 }, "bad-request"],
      [{ prompt: "half a pair \ud83d", maxTokens: 5 }, "bad-request"],
      [{ prompt: "word ".repeat(2_000), maxTokens: 5 }, "context-exceeded"],
      [{ prompt: "word ".repeat(150_000), maxTokens: 5 }, "context-exceeded"],
      [{ prompt: "x", maxTokens: 0 }, "bad-request"],
      [{ prompt: "x", maxTokens: 5, sampling: { temperature: 3 } }, "bad-request"],
      [{ prompt: "x", maxTokens: 5, sampling: { topP: 0 } }, "bad-request"],
      [{ prompt: "x", maxTokens: 5, stop: ["a", "b", "c", "d", "e"] }, "bad-request"],
      [{ prompt: "x", maxTokens: 5, logprobs: 21 }, "bad-request"],
    ];
    for (const [options, code] of cases) {
      const error = await failure(options);
      expect([String(options.prompt).slice(0, 20), error.code]).toEqual([String(options.prompt).slice(0, 20), code]);
    }
  });

  it("goes on serving the same tokens while every subject gets rubbish", { timeout: 120_000 }, async () => {
    const requests = mixedRequests(12);
    const before = await tokensOf(deployment.client, requests, 12);
    const [attention] = await deployment.supervisor.stats();
    const attentionId = attention?.id ?? "";
    const random = new Uint8Array(3_000).map((_, i) => (i * 7919 + (i >> 3)) & 0xff);
    const nested = Uint8Array.from({ length: 100_000 }, () => 0x91);
    const rubbish = [
      new Uint8Array(),
      random,
      nested,
      Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff),
      encode({ kind: "activations" }),
      // Their checksums fit, so that what is wrong is found behind them.
      encodedSealed(batch({ layer: 99 })),
      encodedSealed(batch({ epoch: 12_345 })),
      encodedSealed(batch({ hidden: { dtype: "f32", shape: [1, 384], bytes: new Uint8Array(4) } })),
      encodedSealed(batch({ hidden: { dtype: "f64", shape: [1, 1], bytes: new Uint8Array(8) } })),
      encodedSealed(batch({ expertIds: { dtype: "i32", shape: [1, 3], bytes: new Uint8Array(12).fill(0xff) } })),
      encode({ kind: "result", passId: 1, microBatch: 0, layer: 0, part: 0, shard: 0, attempt: 0, expertId: "x" }),
    ];
    const subjects = [
      "ffn.1.0",
      "ffn.1.1",
      `act.${attentionId}.1.0`,
      `act.${attentionId}.1.7`,
      "request",
      `cancel.${randomUUID()}`,
    ];
    const throwing = (async () => {
      for (let round = 0; round < 30; round++) {
        for (const subject of subjects) for (const bytes of rubbish) nats.publish(`rally.default.${subject}`, bytes);
        await nats.flush();
      }
    })();
    const during = await tokensOf(deployment.client, requests, 12);
    await throwing;
    expect(during).toEqual(before);
    expect(await tokensOf(deployment.client, requests, 12)).toEqual(before);
    expect(deployment.supervisor.pids).toEqual(pids);

    const stats = await deployment.supervisor.stats();
    expect(stats.reduce((sum, { badMessages }) => sum + badMessages, 0)).toBeGreaterThan(1_000);
    // The last pass may end a moment after its last token was seen.
    const held = async () => {
      let sum = 0;
      for (const role of await deployment.supervisor.stats()) {
        if (role.role === "attention") {
          sum +=
            role.activeSequences + role.waitingSequences + role.kvTokens + role.pendingDispatches + role.creditsInUse;
        } else sum += role.waiting;
      }
      return sum;
    };
    await expect.poll(held, { timeout: 10_000, interval: 100 }).toBe(0);
  });
});

function batch(fields: Record<string, unknown>): Record<string, unknown> {
  return {
    kind: "activations",
    deployment: "default",
    epoch: 1,
    attentionId: "nobody",
    passId: 1,
    microBatch: 0,
    layer: 1,
    part: 0,
    attempt: 0,
    deadline: Date.now() + 10_000,
    hidden: { dtype: "f32", shape: [1, 384], bytes: new Uint8Array(4 * 384) },
    expertIds: { dtype: "i32", shape: [1, 3], bytes: new Uint8Array(12) },
    expertWeights: { dtype: "f32", shape: [1, 3], bytes: new Uint8Array(12) },
    ...fields,
  };
}
