import { randomUUID } from "node:crypto";
import { Packr, Unpackr } from "msgpackr";
import { connect, type NatsConnection } from "nats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startDeployment, type TestDeployment } from "../support/deployment.ts";

/** What a client in any language does, with nothing of ours: actors/protocol/README.md, step by step. */
describe("a plain NATS client", () => {
  const packr = new Packr({ useRecords: false });
  const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true });
  let deployment: TestDeployment;
  let nats: NatsConnection;

  beforeAll(async () => {
    deployment = await startDeployment();
    nats = await connect({ servers: deployment.supervisor.nats.settings.url });
  });
  afterAll(async () => {
    await nats?.close();
    await deployment?.stop();
  });

  const send = (request: Record<string, unknown>) =>
    nats.jetstream().publish("rally.default.request", packr.pack(request), { msgID: String(request["requestId"]) });

  /** Every event of one request's log, the ending last. */
  async function follow(requestId: string): Promise<Record<string, unknown>[]> {
    const consumer = await nats.jetstream().consumers.get("RALLY_default_TOKENS", {
      filterSubjects: `rally.default.tokens.${requestId}`,
    });
    const events: Record<string, unknown>[] = [];
    for await (const message of await consumer.consume()) {
      const event = unpackr.unpack(message.data) as Record<string, unknown>;
      events.push(event);
      if (event["kind"] !== "tokens") break;
    }
    return events;
  }

  const request = (fields: Record<string, unknown> = {}) => ({
    kind: "generate",
    requestId: randomUUID(),
    deployment: "default",
    prompt: "Once upon a time",
    maxTokens: 24,
    sampling: { temperature: 0 },
    deadline: Date.now() + 30_000,
    ...fields,
  });

  it("sends a request and follows its log; the same request twice is one", async () => {
    const message = request();
    const ack = await send(message);
    expect(ack.duplicate).toBe(false);
    expect((await send(message)).duplicate).toBe(true);
    const events = await follow(message.requestId);
    const ending = events.at(-1);
    expect(ending).toMatchObject({ kind: "completed", finishReason: "length", usage: { outputTokens: 24 } });
    let next = 0;
    let text = "";
    for (const event of events.slice(0, -1)) {
      expect(event["index"]).toBe(next);
      next += (event["ids"] as number[]).length;
      text += (event["texts"] as string[]).join("");
    }
    expect(next).toBe(24);
    const result = await deployment.client.resume(message.requestId).result;
    expect(text + String(ending?.["text"])).toBe(result.text);
  });

  it("cancels", async () => {
    const message = request({ maxTokens: 900, requestId: randomUUID() });
    await send(message);
    const log = follow(message.requestId);
    const asking = setInterval(() => nats.publish(`rally.default.cancel.${message.requestId}`), 200);
    try {
      expect((await log).at(-1)).toMatchObject({ kind: "cancelled" });
    } finally {
      clearInterval(asking);
    }
  });

  it("is told what is wrong with a request", async () => {
    const wrong = request({ temperature: 1 });
    await send(wrong);
    expect((await follow(wrong.requestId)).at(-1)).toMatchObject({
      kind: "failed",
      error: { code: "bad-request", fields: { field: "temperature" } },
    });
    const long = request({ maxTokens: 100_000 });
    await send(long);
    expect((await follow(long.requestId)).at(-1)).toMatchObject({
      kind: "failed",
      error: { code: "context-exceeded", fields: { limit: 1024 } },
    });
    const elsewhere = request({ deployment: "other" });
    await send(elsewhere);
    expect((await follow(elsewhere.requestId)).at(-1)).toMatchObject({
      kind: "failed",
      error: { code: "unknown-deployment" },
    });
  });
});
