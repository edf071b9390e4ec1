import { beforeEach, describe, expect, test } from "vitest";
import { type GenerateOptions, type Generation, RallyClient } from "../../../actors/client/rally-client.ts";
import { decodeGenerateRequest, decodeOffer } from "../../../actors/protocol/decode.ts";
import type { Offer } from "../../../actors/protocol/messages.ts";
import { openRequestQueue } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import type { Durable, QueueOptions, WorkQueue } from "../../../infra/durable.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { TokenLogOwner } from "../../support/token-log-owner.ts";

const deployment = "test";
const subjects = subjectsOf(deployment);
const request: GenerateOptions = { prompt: "Once", maxTokens: 8, requestId: "r1" };

let clock: SimulatedClock;
let bus: MemoryBus;
let durable: MemoryDurable;
let client: RallyClient;
let owner: TokenLogOwner;

beforeEach(async () => {
  clock = new SimulatedClock();
  bus = new MemoryBus({ clock });
  durable = new MemoryDurable({ clock });
  client = new RallyClient({ bus, durable, deployment, clock, newId: () => "made-up" });
  owner = await TokenLogOwner.open(durable, deployment, "r1");
});

async function idsOf(generation: Generation): Promise<number[]> {
  const ids: number[] = [];
  for await (const { index, id } of generation) {
    expect(index).toBe(ids.length);
    ids.push(id);
  }
  return ids;
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

function codeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => "resolved",
    (error: unknown) => (error instanceof RallyError ? error.code : error),
  );
}

describe("an offer", () => {
  const answer = (payload: Uint8Array) =>
    bus.connect().subscribe(subjects.offer, ({ reply = "" }) => bus.publish(reply, payload));
  const queued = async () => (await openRequestQueue(durable, subjects)).depth();

  test("that is refused is the request's end: nothing is sent", async () => {
    const asked: Offer[] = [];
    bus.connect().subscribe(subjects.offer, ({ payload }) => void asked.push(decodeOffer(payload)));
    const error = { code: "overloaded", message: "full", fields: { retryAfterMs: 7 } };
    answer(encode({ kind: "offered", error }));
    const generation = client.generate({ ...request, deadlineMs: 5_000 });
    await expect(generation.result).rejects.toMatchObject({ code: "overloaded", fields: { retryAfterMs: 7 } });
    expect(asked).toEqual([{ kind: "offer", maxTokens: 8, deadline: clock.now() + 5_000 }]);
    expect(await queued()).toBe(0);
  });

  test.each([
    ["welcome", encode({ kind: "offered" })],
    ["refused for another reason than load", encode({ kind: "offered", error: { code: "internal", message: "?" } })],
    ["answered by something else", Uint8Array.of(0xc1, 1)],
  ])("that is %s is followed by the request", async (_, payload) => {
    answer(Uint8Array.from(payload));
    const generation = client.generate(request);
    await settled();
    expect(await queued()).toBe(1);
    await owner.tokens(0, [7]);
    await owner.completed(1);
    expect(await idsOf(generation)).toEqual([7]);
  });

  test("without an answer holds up the request for a quarter of a second", async () => {
    bus.connect().subscribe(subjects.offer, () => undefined);
    const generation = client.generate(request);
    await settled();
    expect(await queued()).toBe(0);
    clock.advance(250);
    await settled();
    expect(await queued()).toBe(1);
    await owner.completed(0);
    expect(await idsOf(generation)).toEqual([]);
  });

  test("of a client that was closed meanwhile sends nothing", async () => {
    bus.connect().subscribe(subjects.offer, () => undefined);
    const { result } = client.generate(request);
    const code = codeOf(result);
    await client.close();
    clock.advance(250);
    await settled();
    expect([await code, await queued()]).toEqual(["closed", 0]);
  });
});

describe("following", () => {
  const followed: string[] = [];
  beforeEach(() => {
    followed.length = 0;
    bus.connect().subscribe(subjects.follow("*"), ({ subject }) => void followed.push(subject));
  });

  test("is said every second of a request with an idle limit, until it ends or is left", async () => {
    client.generate({ ...request, requestId: "without" });
    const generation = client.generate({ ...request, idleLimitMs: 3000 });
    for (let second = 0; second < 5; second++) {
      await settled();
      expect(followed).toEqual(Array.from({ length: second + 1 }, () => subjects.follow("r1")));
      clock.advance(1000);
    }
    const iterating = idsOf(generation);
    await owner.tokens(0, [7]);
    await owner.completed(1);
    expect(await iterating).toEqual([7]);
    const { length } = followed;
    clock.advance(5000);
    await settled();
    expect(followed).toHaveLength(length);
  });

  test("is said of what is resumed, which may have one, and not after the iteration was left", async () => {
    await owner.tokens(0, [7, 8]);
    for await (const { id } of client.resume("r1")) {
      clock.advance(1000);
      await settled();
      if (id === 8) break;
    }
    await settled();
    expect(followed).toHaveLength(3);
    clock.advance(5000);
    await settled();
    expect(followed).toHaveLength(3);
    expect(clock.pending).toBe(0);
  });
});

describe("generate", () => {
  test("sends the request through the queue", async () => {
    client.generate({ prompt: "Once", maxTokens: 8, stop: ["\n"], sampling: { temperature: 0 }, deadlineMs: 5000 });
    await settled();
    const [job] = await (await openRequestQueue(durable, subjects)).pull(1, 0);
    expect(job && decodeGenerateRequest(job.payload)).toMatchObject({
      requestId: "made-up",
      deployment,
      prompt: "Once",
      maxTokens: 8,
      stop: ["\n"],
      sampling: { temperature: 0 },
      deadline: 5000,
    });
  });

  test("yields each token as it is logged, then the result", async () => {
    const generation = client.generate(request);
    const ids = idsOf(generation);
    await settled();
    clock.advance(40);
    await owner.tokens(0, [7]);
    await settled();
    clock.advance(60);
    await owner.tokens(1, [8, 9]);
    await owner.completed(3, "rest");
    expect(await ids).toEqual([7, 8, 9]);
    expect(await generation.result).toEqual({
      requestId: "r1",
      text: "7,8,9,rest",
      tokenIds: [7, 8, 9],
      promptTokens: 3,
      outputTokens: 3,
      finishReason: "length",
      ttftMs: 40,
      elapsedMs: 100,
    });
    expect(clock.pending).toBe(0);
  });

  test("skips claims and what it has seen: each index once", async () => {
    const generation = client.generate(request);
    await owner.tokens(0, [7, 8]);
    await owner.tokens(2, []);
    await owner.tokens(1, [8, 9]);
    await owner.tokens(0, [7, 8, 9]);
    await owner.completed(3);
    expect(await idsOf(generation)).toEqual([7, 8, 9]);
  });

  test.each([
    ["a gap", () => owner.tokens(1, [8])],
    ["a token changed", () => owner.tokens(0, [7]).then(() => owner.tokens(0, [9]))],
    ["tokens missing at the end", () => owner.tokens(0, [7]).then(() => owner.completed(2))],
  ])("%s in the log is an error", async (_, write) => {
    const generation = client.generate(request);
    await write();
    await expect(generation.result).rejects.toThrow(/the token log of request r1 is broken/);
    await expect(idsOf(generation)).rejects.toThrow(/broken/);
  });

  test("entries that are no log events, or another request's, are stepped over", async () => {
    const generation = client.generate(request);
    await owner.raw({ kind: "nonsense" });
    await owner.tokens(0, [7]);
    const end = { requestId: "r2", owner: "o", usage: { promptTokens: 1, outputTokens: 9 } };
    await owner.raw({ kind: "tokens", requestId: "r2", owner: "o", index: 0, ids: [9], texts: ["x"] });
    await owner.raw({ kind: "cancelled", ...end });
    await owner.raw({ kind: "completed", ...end, requestId: "r1", finishReason: 5 } as { kind: string });
    await owner.raw({ kind: "failed" });
    await owner.tokens(1, [8]);
    await owner.completed(2);
    await expect(generation.result).resolves.toMatchObject({ tokenIds: [7, 8], text: "7,8," });
    expect(await idsOf(generation)).toEqual([7, 8]);
  });

  test("has one ending: what the log says later is ignored", async () => {
    const generation = client.generate(request);
    await owner.completed(0);
    await owner.failed(new RallyError("internal", "late"));
    await expect(generation.result).resolves.toMatchObject({ text: "", outputTokens: 0 });
    await settled();
    expect(await idsOf(generation)).toEqual([]);
  });

  test("a failed request rejects with the server's error, after the tokens it had", async () => {
    const generation = client.generate(request);
    await owner.tokens(0, [7]);
    await owner.failed(new RallyError("context-exceeded", "too long", { limit: 4 }));
    const seen: number[] = [];
    const iteration = async () => {
      for await (const { id } of generation) seen.push(id);
    };
    await expect(iteration()).rejects.toMatchObject({ code: "context-exceeded", fields: { limit: 4 } });
    expect(seen).toEqual([7]);
    expect(await codeOf(generation.result)).toBe("context-exceeded");
  });

  test("a full queue is `overloaded`, and nothing is followed any more", async () => {
    const full = new RallyError("overloaded", "full", { retryAfterMs: 5 });
    client = new RallyClient({ bus, durable: withPut(durable, () => Promise.reject(full)), deployment, clock });
    expect(await codeOf(client.generate(request).result)).toBe("overloaded");
    expect(clock.pending).toBe(0);
  });

  test("a put without an answer is sent again under the same id", async () => {
    const ids: string[] = [];
    const flaky = withPut(durable, async (queue, id, payload) => {
      ids.push(id);
      if (ids.length === 1) throw new RallyError("timeout", "no answer");
      await queue.put(id, payload);
    });
    client = new RallyClient({ bus, durable: flaky, deployment, clock });
    const generation = client.generate(request);
    await settled();
    clock.advance(1000);
    await settled();
    expect(ids).toEqual(["r1", "r1"]);
    await owner.completed(0);
    await generation.result;
  });

  test("ends by itself when nobody has written an ending a while after the deadline", async () => {
    const generation = client.generate({ ...request, deadlineMs: 1000 });
    await settled();
    clock.advance(1000);
    await owner.tokens(0, [7]);
    await settled();
    clock.advance(2999);
    expect(generation.tokens).toHaveLength(1);
    clock.advance(1);
    expect(await codeOf(generation.result)).toBe("deadline-exceeded");
  });

  test("the text comes in pieces, with the rest that no token carried", async () => {
    const generation = client.generate(request);
    await owner.tokens(0, [1, 2, 3], ["On", "", "ce"]);
    await owner.completed(3, "\n");
    const pieces: string[] = [];
    for await (const piece of generation.texts()) pieces.push(piece);
    expect(pieces).toEqual(["On", "ce", "\n"]);
  });

  test("reports logprobs", async () => {
    const generation = client.generate({ ...request, logprobs: 1 });
    const logprob = { logprob: -0.5, top: [[7, -0.5]] as const };
    const event = {
      kind: "tokens",
      requestId: "r1",
      owner: "o",
      index: 0,
      ids: [7],
      texts: ["x"],
      logprobs: [logprob],
    };
    await owner.raw(event);
    await owner.completed(1);
    await generation.result;
    expect(generation.tokens).toEqual([{ index: 0, id: 7, text: "x", logprob }]);
  });
});

describe("leaving early", () => {
  test("stops following but not the request", async () => {
    const cancels: string[] = [];
    bus.subscribe(subjects.cancel("*"), ({ subject }) => cancels.push(subject));
    const generation = client.generate(request);
    await owner.tokens(0, [7, 8]);
    for await (const { id } of generation) {
      expect(id).toBe(7);
      break;
    }
    await expect(generation.result).rejects.toMatchObject({ code: "closed", fields: { nextIndex: 2 } });
    await owner.tokens(2, [9]);
    await settled();
    expect(generation.tokens).toHaveLength(2);
    expect(cancels).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  test("a slow reader still gets every token", async () => {
    const generation = client.generate({ ...request, maxTokens: 500 });
    for (let index = 0; index < 500; index += 50) {
      await owner.tokens(
        index,
        Array.from({ length: 50 }, (_, i) => index + i),
      );
    }
    await owner.completed(500);
    await generation.result;
    expect(await idsOf(generation)).toHaveLength(500);
  });
});

describe("cancel", () => {
  test("asks until the ending comes, which rejects with `cancelled`", async () => {
    let asked = 0;
    bus.subscribe(subjects.cancel("r1"), () => asked++);
    const generation = client.generate(request);
    await settled();
    generation.cancel();
    generation.cancel();
    await settled();
    expect(asked).toBe(1);
    clock.advance(500);
    await settled();
    expect(asked).toBe(2);
    await owner.cancelled(0);
    await expect(generation.result).rejects.toMatchObject({ code: "cancelled", fields: { outputTokens: 0 } });
    clock.advance(5000);
    await settled();
    expect(asked).toBe(2);
    expect(clock.pending).toBe(0);
  });

  test("a request that completed first stays completed", async () => {
    const generation = client.generate(request);
    generation.cancel();
    await owner.completed(0);
    expect(await codeOf(generation.result)).toBe("resolved");
  });

  test("by id", async () => {
    let asked = 0;
    bus.subscribe(subjects.cancel("other"), () => asked++);
    await client.cancel("other");
    await settled();
    expect(asked).toBe(1);
    expect(await codeOf(client.cancel("a.b"))).toBe("bad-request");
  });
});

describe("resume", () => {
  test("replays from an index, goes on, and reports the whole", async () => {
    await owner.tokens(0, [7, 8, 9]);
    const generation = client.resume("r1", 2);
    const seen: number[] = [];
    const iteration = (async () => {
      for await (const { index } of generation) seen.push(index);
    })();
    await settled();
    expect(seen).toEqual([2]);
    await owner.tokens(3, [10]);
    await owner.completed(4);
    await iteration;
    expect(seen).toEqual([2, 3]);
    await expect(generation.result).resolves.toMatchObject({ tokenIds: [7, 8, 9, 10], text: "7,8,9,10," });
  });

  test("of a request that nobody knows is `unknown-request` after 2 s", async () => {
    const generation = client.resume("nobody", 0);
    await settled();
    clock.advance(2000);
    expect(await codeOf(generation.result)).toBe("unknown-request");
    expect(clock.pending).toBe(0);
  });

  test("of a request of which there is nothing but rubbish is `unknown-request` too", async () => {
    await owner.raw({ kind: "nonsense" });
    const generation = client.resume("r1", 0);
    await settled();
    clock.advance(2000);
    expect(await codeOf(generation.result)).toBe("unknown-request");
  });

  test("of a request with an owner but no token waits", async () => {
    await owner.tokens(0, []);
    const generation = client.resume("r1", 0);
    await settled();
    clock.advance(10_000);
    await owner.completed(0);
    expect(await codeOf(generation.result)).toBe("resolved");
  });

  test.each([-1, 0.5, Number.NaN])("from index %s is refused", (index) => {
    expect(() => client.resume("r1", index)).toThrow(/fromIndex must be an integer from 0/);
  });
});

describe("bad input is refused before anything is sent", () => {
  const cases: readonly (readonly [string, Record<string, unknown>, RegExp])[] = [
    ["an empty prompt", { prompt: "" }, /prompt must be/],
    ["a prompt that is no text", { prompt: 7 }, /prompt must be text or a list/],
    ["half a surrogate pair", { prompt: "a\ud800b" }, /prompt is not well-formed Unicode/],
    ["half a surrogate pair in a stop string", { stop: ["\udc00"] }, /stop is not well-formed Unicode/],
    ["no tokens", { maxTokens: 0 }, /maxTokens must be an integer from 1/],
    ["a temperature out of range", { sampling: { temperature: 3 } }, /temperature must be/],
    ["an unknown sampling field", { sampling: { heat: 1 } }, /heat/],
    ["an unknown field", { max_tokens: 3 }, /unknown field "max_tokens"/],
    ["too many stops", { stop: ["a", "b", "c", "d", "e"] }, /stop must be a list of at most 4/],
    ["a request id with a dot", { requestId: "a.b" }, /^requestId must be/],
    ["a deadline in the past", { deadlineMs: 0 }, /deadlineMs must be an integer from 1/],
  ];
  test.each(cases)("%s", async (_, fields, message) => {
    expect(() => client.generate({ ...request, ...fields })).toThrow(message);
    expect(await (await openRequestQueue(durable, subjects)).depth()).toBe(0);
    expect(clock.pending).toBe(0);
  });

  test("a deployment name that is none", () => {
    expect(() => new RallyClient({ bus, durable, deployment: "a b" })).toThrow(/^deployment must be/);
  });
});

test("close ends what is followed, and refuses what comes after", async () => {
  const generation = client.generate(request);
  await client.close();
  expect(await codeOf(generation.result)).toBe("closed");
  expect(() => client.generate(request)).toThrow(/closed/);
});

function withPut(inner: Durable, put: (queue: WorkQueue, id: string, payload: Uint8Array) => Promise<void>): Durable {
  return {
    log: (options) => inner.log(options),
    keyValue: (bucket) => inner.keyValue(bucket),
    remove: (kind, name) => inner.remove(kind, name),
    async queue(options: QueueOptions) {
      const queue = await inner.queue(options);
      return {
        put: (id, payload) => put(queue, id, payload),
        pull: (max, waitMs) => queue.pull(max, waitMs),
        depth: () => queue.depth(),
        peek: (afterSeq) => queue.peek(afterSeq),
        progress: () => queue.progress(),
        discard: (seq) => queue.discard(seq),
      };
    },
  };
}

describe("while the server is away", () => {
  async function afterMs(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 250) {
      await settled();
      clock.advance(250);
    }
    await settled();
  }

  test("a request waits until it is back", async () => {
    durable.interrupt();
    const generation = client.generate(request);
    const resumed = client.resume("r1");
    await afterMs(29_000);
    durable.restore();
    await afterMs(500);
    await owner.tokens(0, [7]);
    await afterMs(0);
    expect([generation.tokens, resumed.tokens].map((tokens) => tokens.map(({ id }) => id))).toEqual([[7], [7]]);
    const [job] = await (await openRequestQueue(durable, subjects)).pull(1, 0);
    expect(job && decodeGenerateRequest(job.payload).requestId).toBe("r1");
  });

  test("but not for ever, nor beyond its deadline", async () => {
    durable.interrupt();
    const patient = codeOf(client.generate(request).result);
    const short = codeOf(client.generate({ ...request, requestId: "r2", deadlineMs: 1000 }).result);
    await afterMs(5_000);
    expect(await short).toBe("server-unavailable");
    await afterMs(26_000);
    expect(await patient).toBe("server-unavailable");
  });
});
