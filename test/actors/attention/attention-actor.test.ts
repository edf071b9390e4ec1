import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readLogged } from "../../../actors/attention/logged.ts";
import { decodeOfferAnswer } from "../../../actors/protocol/decode.ts";
import type { EndEvent, GenerateRequest, OfferAnswer } from "../../../actors/protocol/messages.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import type { Pass, PassRequest } from "../../../models/stages.ts";
import { AttentionBench, ended, request, type RunningActor, START } from "../../support/attention-bench.ts";
import { fakeConfig } from "../../support/fake-model.ts";
import { FakeTokenizer, textOf } from "../../support/fake-tokenizer.ts";
import { referenceTokens } from "../../support/reference-tokens.ts";
import { quiet } from "../../support/turns.ts";

let bench: AttentionBench;
beforeEach(async () => {
  bench = await AttentionBench.open();
});
afterEach(async () => {
  await bench.close();
  for (const { actor, engine } of bench.actors) {
    expect(actor.counts.owned).toBe(0);
    expect(engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
  }
});

/** The tokens a request must get, whoever serves it. */
function tokensOf({ prompt, maxTokens, sampling }: GenerateRequest): Promise<number[]> {
  const text = typeof prompt === "string" ? new FakeTokenizer().encode(prompt) : [];
  const tokenIds = typeof prompt === "string" ? [fakeConfig.bosTokenId ?? 0, ...text] : prompt;
  return referenceTokens({
    key: 1,
    tokenIds,
    numPromptTokens: tokenIds.length,
    maxTokens,
    sampling,
    logprobs: undefined,
  });
}

/** Their text as a decoder gives it all at once. */
function plainText(ids: readonly number[]): string {
  const decoder = new FakeTokenizer().decodeStream();
  const isEos = fakeConfig.eosTokenIds.includes(ids.at(-1) ?? -1);
  return (isEos ? ids.slice(0, -1) : ids).map((id) => decoder.push(id)).join("") + decoder.end();
}

const withoutOwner = (end: EndEvent): EndEvent => ({ ...end, owner: "" });

const seeded = { ...DEFAULT_SAMPLING, temperature: 0.9, topP: 0.95, repetitionPenalty: 1.2, seed: 9 };

describe("AttentionActor", () => {
  it("serves requests of many kinds at once: the reference's tokens and text, one ending, nothing left", async () => {
    const a = bench.actor("a", { maxSequences: 4 });
    const requests = Array.from({ length: 12 }, (_, i) =>
      request(`r${i}`, {
        maxTokens: 1 + i * 2,
        sampling: { ...seeded, temperature: i % 2, seed: i },
        ...(i % 3 === 0 && { prompt: [5, 9, 2 + i] }),
      }),
    );
    for (const each of requests) await bench.put(each);
    await ended(
      bench,
      requests.map(({ requestId }) => requestId),
    );
    for (const each of requests) {
      const story = await bench.story(each.requestId);
      const ids = await tokensOf(each);
      expect(story.ids).toEqual(ids);
      expect(story.text).toBe(plainText(ids));
      const isEos = fakeConfig.eosTokenIds.includes(ids.at(-1) ?? -1);
      const promptTokens = typeof each.prompt === "string" ? each.prompt.length + 1 : each.prompt.length;
      expect(story.ends).toMatchObject([
        {
          kind: "completed",
          finishReason: isEos ? "eos" : "length",
          usage: { promptTokens, outputTokens: ids.length },
        },
      ]);
    }
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
    expect(a.actor.counts).toMatchObject({ owned: 0, badMessages: 0 });
    expect(a.actor.counts.machineMs).toBeGreaterThan(0);
    expect(a.warnings).toEqual([]);
    // Nobody claims what was delivered once.
    expect(a.log.appends.some(({ id }) => id.includes("claim"))).toBe(false);
  });

  it("ends the text before a stop string that lies across tokens", async () => {
    bench.actor("a");
    const plain = request("plain", { maxTokens: 30, sampling: seeded });
    const ids = await tokensOf(plain);
    const text = plainText(ids);
    const stop = text.slice(7, 10);
    await bench.put({ ...plain, requestId: "stopped", stop: [stop, "never"] });
    await ended(bench, ["stopped"]);
    const story = await bench.story("stopped");
    expect(story.text).toBe(text.slice(0, text.indexOf(stop)));
    expect(story.ends).toMatchObject([{ kind: "completed", finishReason: "stop" }]);
    expect(story.ids).toEqual(ids.slice(0, story.ids.length));
    expect(story.ends[0]?.usage.outputTokens).toBe(story.ids.length);
  });

  it("sends text held back for a stop string that does not come, and half a character at the end", async () => {
    bench.actor("a");
    const plain = request("plain", { maxTokens: 30, sampling: seeded });
    const ids = await tokensOf(plain);
    for (let maxTokens = 1; maxTokens < ids.length; maxTokens++) {
      const id = `cut${maxTokens}`;
      const last = textOf(ids[maxTokens - 1] ?? 0);
      await bench.put({ ...plain, requestId: id, maxTokens, stop: [`${last}not that`] });
      await ended(bench, [id]);
      expect((await bench.story(id)).text).toBe(plainText(ids.slice(0, maxTokens)));
    }
  });

  it("reports logprobs where they are asked for", async () => {
    bench.actor("a");
    await bench.put(request("r", { logprobs: 2 }));
    await ended(bench, ["r"]);
    const { ids, logprobs } = await bench.story("r");
    expect(logprobs).toHaveLength(ids.length);
  });

  it("takes only as many as it has places for, and the rest as they become free", async () => {
    const a = bench.actor("a", { maxSequences: 2, budget: 0 });
    for (let i = 0; i < 5; i++) await bench.put(request(`r${i}`));
    await bench.advance(3000);
    expect(a.actor.counts.owned).toBe(2);
    // The acks of those in hand are kept alive meanwhile: nobody else gets them.
    const b = bench.actor("b", { budget: 0 });
    await bench.advance(20_000);
    expect(a.admitted).toHaveLength(2);
    expect(b.admitted).toHaveLength(3);
    b.go();
    a.go();
    await ended(bench, ["r0", "r1", "r2", "r3", "r4"]);
    expect(a.admitted).toHaveLength(2);
    expect(a.log.appends.some(({ id }) => id.includes("claim"))).toBe(false);
  });
});

describe("AttentionActor: several", () => {
  it("share a burst", async () => {
    const actors = ["a", "b"].map((id) => bench.actor(id, { budget: 0 }));
    await quiet();
    for (let i = 0; i < 8; i++) await bench.queue.put(`r${i}`, encode(request(`r${i}`)));
    await quiet();
    expect(actors.map(({ admitted }) => admitted.length).every((n) => n >= 2)).toBe(true);
    for (const a of actors) a.go();
    await ended(
      bench,
      Array.from({ length: 8 }, (_, i) => `r${i}`),
    );
  });
});

describe("AttentionActor: bad input", () => {
  const cases: [string, object, string, object][] = [
    ["another deployment", { deployment: "other" }, "unknown-deployment", { field: "deployment", expected: "d" }],
    ["an empty text", { prompt: "" }, "bad-request", { field: "prompt" }],
    ["an empty list", { prompt: [] }, "bad-request", { field: "prompt" }],
    ["an id beyond the vocabulary", { prompt: [3, 97] }, "bad-request", { field: "prompt", found: 97, limit: 96 }],
    ["a prompt over the context", { prompt: "x".repeat(180) }, "context-exceeded", {}],
    [
      "ids over the context",
      { prompt: Array.from({ length: 181 }, () => 3) },
      "context-exceeded",
      { limit: 192, promptTokens: 181 },
    ],
    ["maxTokens over the context", { maxTokens: 192 }, "context-exceeded", { limit: 192, maxTokens: 192 }],
    ["maxTokens 0", { maxTokens: 0 }, "bad-request", { field: "maxTokens" }],
    [
      "a temperature out of range",
      { sampling: { ...seeded, temperature: 9 } },
      "bad-request",
      { field: "sampling.temperature" },
    ],
    ["an unknown field", { colour: "red" }, "bad-request", { field: "colour" }],
    ["another kind", { kind: "tokens" }, "bad-request", { field: "kind" }],
  ];
  for (const [what, change, code, fields] of cases) {
    it(`${what}: ${code} to the sender, nothing in the engine`, async () => {
      const a = bench.actor("a");
      await bench.put(encode({ ...request("r"), ...change }));
      await ended(bench, ["r"]);
      const { ids, ends } = await bench.story("r");
      expect(ids).toEqual([]);
      expect(ends).toMatchObject([{ kind: "failed", error: { code, fields }, usage: { outputTokens: 0 } }]);
      expect(a.admitted).toEqual([]);
      expect(a.actor.counts.badMessages).toBe(1);
      expect(await bench.queue.depth()).toBe(0);
      await bench.put(request("next"));
      await ended(bench, ["next"]);
    });
  }

  it("fills the context to its last token", async () => {
    bench.actor("a");
    await bench.put(request("r", { prompt: "x".repeat(179), maxTokens: 12 }));
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends[0]?.kind).toBe("completed");
  });

  it("counts bytes that name no request, and takes them off the queue", async () => {
    const a = bench.actor("a");
    const wrong = [[], [0xc1], [0x93, 1], Array.from({ length: 4000 }, () => 0x91)];
    for (const [i, bytes] of wrong.entries()) await bench.put(Uint8Array.from(bytes), `wrong ${i}`);
    await bench.put(encode({ ...request("r"), requestId: "a.b" }), "wrong id");
    await quiet();
    expect(a.actor.counts.badMessages).toBe(5);
    expect(a.warnings).toHaveLength(5);
    expect(await bench.queue.depth()).toBe(0);
  });

  it("tells a sender whose bytes do not say who it is, by the id that it has put them under", async () => {
    bench.actor("a");
    await bench.put(Uint8Array.of(0xc1), "r");
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { code: "bad-message" } }]);
  });

  it("leaves a request that was damaged on its way to its sender, who puts it again", async () => {
    const a = bench.actor("a");
    await bench.put(new Uint8Array(), "r");
    await bench.advance(1000);
    expect(await bench.events("r")).toEqual([]);
    await bench.put(encode(request("r")), "copy of r");
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
    await bench.advance(3000);
    expect(await bench.queue.depth()).toBe(0);
    expect(a.warnings.join()).toMatch(/^dropped/u);
  });

  it("fails one that was damaged on its way if its sender does not", async () => {
    const a = bench.actor("a");
    await bench.put(new Uint8Array(), "r");
    await bench.advance(2500);
    expect(await bench.events("r")).toEqual([]);
    await bench.advance(1000);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { code: "corrupted" } }]);
    expect(await bench.queue.depth()).toBe(0);
    expect(a.actor.counts.badMessages).toBe(1);
  });

  it("does not let a bad message under the id of a running request end that one", async () => {
    const a = bench.actor("a", { budget: 6 });
    await bench.put(request("r"));
    expect((await bench.story("r")).ids.length).toBeGreaterThan(1);
    const b = bench.actor("b");
    b.actor.start();
    await bench.put(encode({ ...request("r"), maxTokens: 0 }), "imposter 1");
    await bench.put(encode({ ...request("r"), deployment: "other" }), "imposter 2");
    await quiet();
    a.go();
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
  });

  it("drops another request under an id that is taken, at its owner, at others, and after its owner has died", async () => {
    const a = bench.actor("a", { budget: 6 });
    const first = request("r", { maxTokens: 20, sampling: seeded });
    const imposter = { ...first, prompt: "something else" };
    await bench.put(first);
    expect((await bench.story("r")).ids.length).toBeGreaterThan(1);
    await bench.put(encode(imposter), "at its owner");
    expect(a.warnings).toHaveLength(1);
    a.freeze();
    // Its last pull expires.
    await bench.advance(1100);
    const b = bench.actor("b");
    await bench.put(encode(imposter), "at another");
    expect(b.warnings).toHaveLength(1);
    // Asked again with more time: the same request.
    await bench.put(encode({ ...first, deadline: first.deadline + 1000, idleLimitMs: 60_000 }), "again");
    await ended(bench, ["r"], 10_000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(first));
    await bench.put(encode(imposter), "after the end");
    a.thaw();
    a.go();
    await bench.advance(3000);
    expect(await bench.queue.depth()).toBe(0);
  });

  it("serves a request that is queued twice once", async () => {
    await bench.put(request("r"));
    await bench.put(encode(request("r")), "at the same time");
    const a = bench.actor("a", { budget: 3 });
    await bench.advance(500);
    await bench.put(encode(request("r")), "again");
    await quiet();
    expect(a.admitted).toHaveLength(1);
    a.go();
    await ended(bench, ["r"]);
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
    await bench.put(encode(request("r")), "after the end");
    await quiet();
    expect(a.admitted).toHaveLength(1);
    expect(await bench.queue.depth()).toBe(0);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
  });
});

describe("AttentionActor: deadlines", () => {
  it("ends a request at its deadline, with the tokens it has", async () => {
    const a = bench.actor("a", { budget: 4 });
    await bench.put(request("r", { deadline: START + 5000 }));
    await bench.advance(4900);
    expect((await bench.story("r")).ends).toEqual([]);
    await bench.advance(100);
    const { ids, ends } = await bench.story("r");
    expect(ends).toMatchObject([{ kind: "failed", error: { code: "deadline-exceeded" } }]);
    expect(ends[0]?.usage.outputTokens).toBe(ids.length);
    expect(ids.length).toBeGreaterThan(0);
    a.go();
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
  });

  it("ends one whose deadline has passed in the queue without touching the engine", async () => {
    await bench.put(request("r", { deadline: START + 5000 }));
    await bench.advance(6000, 1000);
    const a = bench.actor("a");
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { code: "deadline-exceeded" } }]);
    expect(a.admitted).toEqual([]);
  });

  it("ends one that waits in the queue on time, though no place becomes free", async () => {
    const actors = ["a", "b"].map((id) => bench.actor(id, { maxSequences: 1, budget: 0 }));
    for (const id of ["busy0", "busy1"]) await bench.put(request(id));
    const ids = Array.from({ length: 5 }, (_, i) => `r${i}`);
    for (const [i, id] of ids.entries()) await bench.put(request(id, { deadline: START + 5000 + i * 1000 }));
    await bench.put(Uint8Array.of(0xc1), "unreadable");
    for (const [i, id] of ids.entries()) {
      await bench.advance(START + 5000 + i * 1000 - bench.clock.now());
      expect((await bench.story(id)).ends).toEqual([]);
      await bench.advance(700);
      expect((await bench.story(id)).ends).toMatchObject([{ kind: "failed", error: { code: "deadline-exceeded" } }]);
    }
    for (const a of actors) a.go();
    await ended(bench, ["busy0", "busy1"]);
    await bench.advance(2000);
    expect(await bench.queue.depth()).toBe(0);
    expect(actors.flatMap(({ admitted }) => admitted)).toHaveLength(2);
    for (const id of ids) expect((await bench.story(id)).ends).toHaveLength(1);
  });

  it("bears deadlines further away than a timer reaches", async () => {
    const a = bench.actor("a", { budget: 2 });
    await bench.put(request("r", { deadline: Number.MAX_SAFE_INTEGER }));
    await bench.advance(1000);
    expect((await bench.story("r")).ends).toEqual([]);
    a.go();
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends[0]?.kind).toBe("completed");
  });
});

describe("AttentionActor: overload", () => {
  it("refuses what it could not finish by its deadline, at once, and only while most places are taken", async () => {
    const a = bench.actor("a", { maxSequences: 4, budget: 0 });
    const far = START + 600_000;
    for (let i = 0; i < 3; i++) await bench.put(request(`busy${i}`, { maxTokens: 100, deadline: far }));
    // Three tokens in 500 ms.
    for (let i = 0; i < 8; i++) {
      a.go(2);
      await bench.advance(500);
    }
    const now = bench.clock.now();
    // 10 tokens of each of four take about 7 s.
    await bench.put(request("hopeless", { maxTokens: 10, deadline: now + 4000 }));
    await quiet();
    // It has 4 s, and would take 9 s or, with a quarter more for caution, 11 s.
    expect((await bench.story("hopeless")).ends).toMatchObject([
      { kind: "failed", error: { code: "overloaded" }, usage: { outputTokens: 0 } },
    ]);
    const [refusal] = (await bench.story("hopeless")).ends;
    const retryAfterMs = refusal?.kind === "failed" ? refusal.error.fields?.["retryAfterMs"] : undefined;
    expect(retryAfterMs).toBeGreaterThan(5_000);
    expect(retryAfterMs).toBeLessThan(9_000);
    await bench.put(request("feasible", { maxTokens: 10, deadline: now + 12_000 }));
    await quiet();
    expect((await bench.story("feasible")).ends).toEqual([]);
    a.go();
    await ended(bench, ["busy0", "busy1", "busy2", "feasible"], 2000);
    expect((await bench.story("feasible")).ends[0]?.kind).toBe("completed");
    await bench.put(request("later", { maxTokens: 10, deadline: bench.clock.now() + 100 }));
    await ended(bench, ["later"]);
    expect((await bench.story("later")).ends[0]?.kind).toBe("completed");
  });
});

describe("AttentionActor: offers", () => {
  const answer = async (maxTokens: number, leftMs: number): Promise<OfferAnswer> => {
    const offer = { kind: "offer", maxTokens, deadline: bench.clock.now() + leftMs };
    const { payload } = await bench.client.request(subjectsOf("d").offer, encode(offer), 100);
    return decodeOfferAnswer(payload);
  };

  it("are refused for what could not be done in time behind what waits, without a trace in queue or log", async () => {
    const a = bench.actor("a", { maxSequences: 2, budget: 0 });
    expect(await answer(100, 1)).toEqual({ kind: "offered" });
    const far = START + 600_000;
    for (let i = 0; i < 3; i++) await bench.put(request(`busy${i}`, { maxTokens: 100, deadline: far }));
    // Two tokens in 500 ms.
    for (let i = 0; i < 8; i++) {
      a.go(2);
      await bench.advance(500);
    }
    const depth = await bench.queue.depth();
    expect(await answer(10, 10_000)).toMatchObject({
      error: { code: "overloaded", fields: { retryAfterMs: expect.any(Number), neededMs: expect.any(Number) } },
    });
    expect(await answer(10, 600_000)).toEqual({ kind: "offered" });
    expect(await bench.queue.depth()).toBe(depth);
    // What was told to come counts, before it has come.
    const patient = (await answer(10, 1)).error?.fields["neededMs"] as number;
    expect(await answer(1_000, 1e7)).toEqual({ kind: "offered" });
    const later = (await answer(10, 1)).error?.fields["neededMs"] as number;
    expect(later - patient).toBeGreaterThan(50_000);
    a.go();
    await ended(bench, ["busy0", "busy1", "busy2"], 2000);
    await bench.advance(2_000);
    expect(await answer(100, 1)).toEqual({ kind: "offered" });
  });

  it("that are none are counted and told so; who leaves answers no more", async () => {
    const a = bench.actor("a");
    const { payload } = await bench.client.request(subjectsOf("d").offer, Uint8Array.of(0xc1), 100);
    expect(decodeOfferAnswer(payload)).toMatchObject({ error: { code: "bad-message" } });
    bench.client.publish(subjectsOf("d").offer, encode({ kind: "offer" }));
    await quiet();
    expect(a.actor.counts.badMessages).toBe(2);
    void a.actor.drain(0);
    await expect(answer(1, 1)).rejects.toMatchObject({ code: "no-responders" });
  });
});

describe("AttentionActor: cancels", () => {
  it("ends a running request, and its sequence in the engine", async () => {
    const a = bench.actor("a", { budget: 4 });
    await bench.put(request("r"));
    bench.cancel("r");
    bench.cancel("r");
    await ended(bench, ["r"]);
    const { ids, ends } = await bench.story("r");
    expect(ends).toMatchObject([{ kind: "cancelled", usage: { outputTokens: ids.length } }]);
    expect(a.engine.counts.activeSequences).toBe(0);
    a.go();
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
  });

  it("ends a request that waits in the queue, though nobody owns it", async () => {
    const a = bench.actor("a", { maxSequences: 1, budget: 0 });
    await bench.put(request("busy"));
    await bench.put(request("r"));
    bench.cancel("r");
    await bench.advance(400);
    expect((await bench.story("r")).ends).toEqual([]);
    await bench.advance(200);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "cancelled", usage: { outputTokens: 0 } }]);
    a.go();
    await ended(bench, ["busy", "r"]);
    expect(a.admitted).toHaveLength(1);
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
  });

  it("remembers a cancel for the request it pulls a moment later", async () => {
    const a = bench.actor("a");
    await quiet();
    bench.cancel("r");
    await quiet();
    await bench.put(request("r"));
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "cancelled" }]);
    expect(a.admitted).toEqual([]);
  });

  it("several actors that hear the same cancel write one ending", async () => {
    const actors = ["a", "b", "c"].map((id) => bench.actor(id, { maxSequences: 1, budget: 0 }));
    for (let i = 0; i < 3; i++) await bench.put(request(`busy${i}`));
    await bench.put(request("r"));
    bench.cancel("r");
    await bench.advance(1000);
    expect((await bench.story("r")).ends).toHaveLength(1);
    for (const a of actors) a.go();
    await ended(bench, ["busy0", "busy1", "busy2", "r"]);
    expect((await bench.story("r")).ends).toHaveLength(1);
  });

  it("after the end change nothing", async () => {
    bench.actor("a");
    bench.actor("b");
    await bench.put(request("r"));
    await ended(bench, ["r"]);
    const before = await bench.events("r");
    bench.cancel("r");
    await bench.advance(1000);
    expect(await bench.events("r")).toEqual(before);
  });

  it("with an impossible name are counted and otherwise ignored", async () => {
    const a = bench.actor("a");
    bench.client.publish(subjectsOf("d").cancel("x".repeat(65)), new Uint8Array(3));
    await quiet();
    expect(a.actor.counts.badMessages).toBe(1);
  });
});

describe("AttentionActor: idle limits", () => {
  const follow = () => bench.client.publish(subjectsOf("d").follow("r"), new Uint8Array());

  it("cancels what nobody follows, and its sequence in the engine", async () => {
    const a = bench.actor("a", { budget: 4 });
    await bench.put(request("r", { idleLimitMs: 3000 }));
    await bench.put(request("other"));
    await bench.advance(2900);
    expect((await bench.story("r")).ends).toEqual([]);
    await bench.advance(100);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "cancelled" }]);
    expect(a.engine.counts.activeSequences).toBe(1);
    await bench.advance(60_000, 1000);
    expect((await bench.story("other")).ends).toMatchObject([{ error: { code: "deadline-exceeded" } }]);
  });

  it("goes on for as long as somebody does, and a limit after that", async () => {
    bench.actor("a", { budget: 4 });
    await bench.put(request("r", { idleLimitMs: 3000 }));
    for (let i = 0; i < 10; i++) {
      await bench.advance(2500, 500);
      follow();
      await quiet();
    }
    await bench.advance(2900);
    expect((await bench.story("r")).ends).toEqual([]);
    await bench.advance(100);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "cancelled" }]);
  });

  it("begins anew with another owner, and leaves nothing behind a request that ends", async () => {
    const a = bench.actor("a", { budget: 2 });
    await bench.put(request("r", { idleLimitMs: 3000 }));
    a.freeze();
    const b = bench.actor("b", { budget: 2 });
    await bench.advance(4000, 100);
    expect((await bench.story("r")).ends).toEqual([]);
    b.go();
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends[0]?.kind).toBe("completed");
  });
});

describe("AttentionActor: takeover", () => {
  /** Requests whose state lives in the sampler, the stop matcher and the text decoder. */
  async function requestsWithState(): Promise<GenerateRequest[]> {
    const base = request("base", { maxTokens: 24, sampling: seeded });
    const text = plainText(await tokensOf(base));
    return [
      { ...base, requestId: "sampled" },
      { ...base, requestId: "greedy", sampling: { ...seeded, temperature: 0, repetitionPenalty: 1.5 } },
      { ...base, requestId: "stopped", stop: [text.slice(-4, -1)] },
      { ...base, requestId: "held", stop: [`${text.slice(-2)}!`] },
      { ...base, requestId: "long", prompt: "y".repeat(70) },
    ];
  }

  /** What each of them looks like when nothing goes wrong. */
  async function undisturbed() {
    const calm = await AttentionBench.open();
    calm.actor("calm");
    const requests = await requestsWithState();
    for (const each of requests) await calm.put(each);
    const ids = requests.map(({ requestId }) => requestId);
    await ended(calm, ids);
    const stories = new Map(await Promise.all(ids.map(async (id) => [id, await calm.story(id)] as const)));
    await calm.close();
    expect(stories.get("stopped")?.ends).toMatchObject([{ finishReason: "stop" }]);
    expect(stories.get("sampled")?.ends).toMatchObject([{ finishReason: "eos" }]);
    expect(stories.get("long")?.ends).toMatchObject([{ finishReason: "length" }]);
    // Held back until the ending.
    expect(stories.get("held")?.ends).toMatchObject([{ text: stories.get("held")?.text.slice(-2) }]);
    return { requests, stories };
  }

  for (const passes of [0, 1, 2, 3, 5, 8, 13, 21, 34, 40]) {
    it(`goes on bitwise after the owner died ${passes} passes in`, async () => {
      const { requests, stories } = await undisturbed();
      const a = bench.actor("a", { budget: passes });
      for (const each of requests) await bench.put(each);
      await quiet();
      a.freeze();
      const b = bench.actor("b");
      await ended(
        bench,
        requests.map(({ requestId }) => requestId),
        10_000,
      );
      for (const { requestId } of requests) {
        const [found, wanted] = [await bench.story(requestId), stories.get(requestId)];
        expect(found.ids).toEqual(wanted?.ids);
        expect(found.text).toBe(wanted?.text);
        expect(found.ends.map(withoutOwner)).toEqual(wanted?.ends.map(withoutOwner));
      }
      expect(b.log.appends.filter(({ id }) => id.includes(":claim:")).length).toBeGreaterThan(0);
      // The old owner wakes up: nothing it writes reaches the log, and it lets go.
      const before = await Promise.all(requests.map(({ requestId }) => bench.events(requestId)));
      a.thaw();
      a.go();
      await bench.advance(5000);
      expect(await Promise.all(requests.map(({ requestId }) => bench.events(requestId)))).toEqual(before);
      expect(a.actor.counts.owned).toBe(0);
    });
  }

  it("writes only what is missing when all tokens are logged but the ending", async () => {
    const { requests, stories } = await undisturbed();
    const a = bench.actor("a");
    // Every append under way when the ending's turn comes is the last.
    for (const each of requests) await bench.put(each, each.requestId);
    a.freeze();
    const b = bench.actor("b");
    await ended(
      bench,
      requests.map(({ requestId }) => requestId),
      10_000,
    );
    for (const { requestId } of requests) {
      expect((await bench.story(requestId)).text).toBe(stories.get(requestId)?.text);
    }
    expect(b.actor.counts.owned).toBe(0);
  });

  it("replays an eos, a stop and a full length from the log without asking the engine", async () => {
    const { requests, stories } = await undisturbed();
    for (const each of requests) {
      const story = stories.get(each.requestId);
      if (story === undefined) throw new Error("no story");
      const event = {
        kind: "tokens",
        requestId: each.requestId,
        owner: "x",
        index: 0,
        ids: story.ids,
        texts: story.ids.map(() => ""),
      };
      await bench.log.append(subjectsOf("d").tokens(each.requestId), encode(event), {
        id: each.requestId,
        expectedLastSeq: 0,
      });
      await bench.put(each);
    }
    const b = bench.actor("b");
    await ended(
      bench,
      requests.map(({ requestId }) => requestId),
    );
    expect(b.admitted).toEqual([]);
    for (const { requestId } of requests) {
      const { ends } = await bench.story(requestId);
      expect(ends.map(withoutOwner)).toEqual(stories.get(requestId)?.ends.map(withoutOwner));
    }
  });

  it("keeps its own request when the queue brings it again to the owner itself", async () => {
    const a = bench.actor("a", { budget: 5 });
    await bench.put(request("r"));
    a.freeze();
    await bench.advance(2500);
    a.thaw();
    await bench.advance(500);
    expect(a.admitted).toHaveLength(1);
    a.go();
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
    await quiet();
    expect(await bench.queue.depth()).toBe(0);
  });

  it("leaves foreign entries in the log alone and goes on behind them", async () => {
    const a = bench.actor("a", { budget: 5 });
    await bench.put(request("r"));
    const subject = subjectsOf("d").tokens("r");
    for (const [i, bytes] of [Uint8Array.of(0xc1), encode({ kind: "tokens" }), encode(request("r"))].entries()) {
      const last = (await bench.log.read(subject)).at(-1)?.seq ?? 0;
      await bench.log.append(subject, bytes, { id: `foreign${i}`, expectedLastSeq: last });
    }
    a.go();
    await quiet();
    expect(a.actor.counts.owned).toBe(0);
    await bench.advance(3000);
    const events = (await bench.log.read(subject)).length;
    expect(events).toBeGreaterThan(4);
    const calm = await tokensOf(request("r"));
    const ids = await goodIds(subject);
    expect(ids).toEqual(calm);
    expect(a.warnings.some((text) => text.includes("3 entries"))).toBe(true);
    expect(await bench.queue.depth()).toBe(0);
  });

  async function goodIds(subject: string): Promise<number[]> {
    return [...readLogged(await bench.log.read(subject), "r").tokenIds];
  }

  it("fails a request whose log contradicts itself", async () => {
    const subject = subjectsOf("d").tokens("r");
    const event = { kind: "tokens", requestId: "r", owner: "x", index: 4, ids: [3], texts: ["c"] };
    await bench.log.append(subject, encode(event), { id: "odd", expectedLastSeq: 0 });
    bench.actor("a");
    await bench.put(request("r"));
    await quiet();
    const events = await bench.events("r");
    expect(events.at(-1)).toMatchObject({
      kind: "failed",
      error: { code: "internal", fields: { index: 4, expected: 0 } },
    });
    expect(await bench.queue.depth()).toBe(0);
  });
});

describe("AttentionActor: poison", () => {
  it("fails a request that has cost three owners in a row, none of which got a token out of it", async () => {
    const victims: RunningActor[] = [];
    await bench.put(request("r"));
    for (let i = 0; i < 3; i++) {
      const victim = bench.actor(`v${i}`, { budget: 0 });
      victims.push(victim);
      await quiet();
      expect(victim.admitted).toHaveLength(1);
      victim.freeze();
      await bench.advance(2500);
    }
    const last = bench.actor("last");
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([
      { kind: "failed", owner: "last", error: { code: "internal", fields: { lostOwners: 3, limit: 3 } } },
    ]);
    expect(last.admitted).toEqual([]);
    expect(await bench.queue.depth()).toBe(0);
  });

  it("is the only suspect of its third owner, so that nobody else is blamed; those with it go on, with the same tokens", async () => {
    const innocent = Array.from({ length: 4 }, (_, i) => request(`i${i}`, { sampling: { ...seeded, seed: i } }));
    const poison = request("poison", { prompt: Array.from({ length: 12 }, () => 95), maxTokens: 3 });
    const ids = [...innocent.map(({ requestId }) => requestId), "poison"];
    for (const each of [poison, ...innocent]) await bench.put(each);
    let numDead = 0;
    /** An owner that dies as soon as it computes the poison. */
    const owner = (id: string) => {
      const running = bench.actor(id);
      const { gate } = running.stages;
      let isDead = false;
      running.stages.gate = async (layer, pass) => {
        const { tokenIds } = (pass as Pass & { readonly request: PassRequest }).request;
        if (!isDead && tokenIds.some((tokenId, k) => tokenId === 95 && tokenIds[k + 1] === 95)) {
          isDead = true;
          numDead++;
          running.freeze();
        }
        await gate(layer, pass);
      };
    };
    for (let i = 0; i < 8 && (await bench.story("poison")).ends.length === 0; i++) {
      owner(`o${i}`);
      await bench.advance(4000);
    }
    await ended(bench, ids, 20_000);
    expect((await bench.story("poison")).ends).toMatchObject([
      { kind: "failed", error: { code: "internal", fields: { lostOwners: 3, limit: 3 } } },
    ]);
    for (const each of innocent) expect((await bench.story(each.requestId)).ids).toEqual(await tokensOf(each));
    expect(numDead).toBe(3);
  });

  it("ends one at its deadline that waits for another suspect to come through", async () => {
    const victim = bench.actor("v", { budget: 0 });
    const ids = ["r1", "r2"];
    await bench.put(request("r1"));
    await bench.put(request("r2", { deadline: START + 8000 }));
    victim.freeze();
    for (const requestId of ids) {
      const claim = { kind: "tokens", requestId, owner: "w", index: 0, ids: [], texts: [] };
      const subject = subjectsOf("d").tokens(requestId);
      await bench.log.append(subject, encode(claim), { id: requestId, expectedLastSeq: 0 });
    }
    await bench.advance(2500);
    const b = bench.actor("b", { budget: 0 });
    await bench.advance(6000);
    expect(b.admitted).toHaveLength(1);
    expect((await bench.story("r1")).ends).toEqual([]);
    expect((await bench.story("r2")).ends).toMatchObject([{ kind: "failed", error: { code: "deadline-exceeded" } }]);
    b.go();
    await ended(bench, ids, 1000);
    expect((await bench.story("r1")).ids).toEqual(await tokensOf(request("r1")));
  });

  it("but not one that makes progress, however often its owner is lost", async () => {
    const long = request("r", { maxTokens: 20, deadline: START + 600_000 });
    await bench.put(long);
    for (let i = 0; i < 8; i++) {
      const owner = bench.actor(`o${i}`, { budget: 3 });
      await quiet();
      owner.freeze();
      await bench.advance(2500);
    }
    bench.actor("last");
    await ended(bench, ["r"], 5000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(long));
  });
});

describe("AttentionActor: store", () => {
  it("gives a request back to the queue while the store is away, and serves it afterwards", async () => {
    const a = bench.actor("a");
    a.log.readError = new RallyError("store-unavailable", "JetStream is away");
    await bench.put(request("r"));
    await bench.advance(2000);
    expect(a.admitted).toEqual([]);
    a.log.readError = undefined;
    await ended(bench, ["r"], 2000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
  });

  it("sees every token into the log once, though answers are lost", async () => {
    const a = bench.actor("a");
    a.log.fates = Array.from({ length: 30 }, (_, i) => (["unanswered", "lost", "fine"] as const)[i % 3] ?? "fine");
    await bench.put(request("r", { sampling: seeded }));
    await ended(bench, ["r"], 20_000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r", { sampling: seeded })));
  });

  it("goes on pulling after the queue has failed, with one warning per outage", async () => {
    let isDown = true;
    const queue = bench.queue;
    const a = bench.actor("a", {
      queue: {
        put: (id, payload) => queue.put(id, payload),
        depth: () => queue.depth(),
        peek: (afterSeq) => queue.peek(afterSeq),
        progress: () => queue.progress(),
        discard: (seq) => queue.discard(seq),
        pull: async (max, waitMs) => {
          if (isDown) throw new RallyError("server-unavailable", "not connected");
          return queue.pull(max, waitMs);
        },
      },
    });
    await bench.put(request("r"));
    await bench.advance(2000);
    expect(a.warnings).toHaveLength(1);
    isDown = false;
    await bench.advance(300);
    await ended(bench, ["r"]);
  });

  it("fails a request that the engine refuses, and keeps nothing of it", async () => {
    const a = bench.actor("a", {
      engine: {
        admit: () => {
          throw new RallyError("overloaded", "no place", { retryAfterMs: 5 });
        },
        release: () => undefined,
      },
    });
    await bench.put(request("r"));
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { code: "overloaded" } }]);
    await quiet();
    expect(a.actor.counts.owned).toBe(0);
  });

  it("fails the requests of a pass that breaks", async () => {
    const a = bench.actor("a");
    a.stages.headGate = () => {
      throw new RallyError("session-failed", "the graph broke");
    };
    await bench.put(request("r"));
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { code: "session-failed" } }]);
  });
});

describe("AttentionActor: drain", () => {
  it("finishes what it has, takes nothing new", async () => {
    const a = bench.actor("a", { budget: 3 });
    await bench.put(request("r"));
    const drained = a.actor.drain(60_000);
    await bench.put(request("later"));
    a.go();
    await ended(bench, ["r"]);
    await bench.advance(1500);
    await drained;
    expect((await bench.story("later")).ends).toEqual([]);
    expect(await bench.queue.depth()).toBe(1);
    bench.actor("b");
    await ended(bench, ["later"], 3000);
  });

  it("after its limit gives the rest back at once, to go on elsewhere", async () => {
    const a = bench.actor("a", { budget: 4 });
    const each = request("r", { sampling: seeded });
    await bench.put(each);
    const drained = a.actor.drain(5000);
    await bench.advance(5000);
    await drained;
    expect(a.engine.counts.activeSequences).toBe(0);
    const b = bench.actor("b");
    await quiet();
    expect(b.admitted).toHaveLength(1);
    await ended(bench, ["r"]);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(each));
  });

  it("is no loss to a request that it gives back, however often that happens before its first token", async () => {
    const each = request("r", { sampling: seeded, deadline: START + 600_000 });
    await bench.put(each);
    for (let i = 0; i < 6; i++) {
      const owner = bench.actor(`o${i}`, { budget: 0 });
      await bench.advance(500);
      expect(owner.admitted).toHaveLength(1);
      const drained = owner.actor.drain(100);
      await bench.advance(1500);
      await drained;
    }
    bench.actor("last");
    await ended(bench, ["r"], 3000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(each));
  });

  it("does not make up for owners that were lost", async () => {
    await bench.put(request("r"));
    for (let i = 0; i < 6; i++) {
      const owner = bench.actor(`o${i}`, { budget: 0 });
      await bench.advance(500);
      if (i % 2 === 0) {
        owner.freeze();
        await bench.advance(2500);
      } else {
        const drained = owner.actor.drain(100);
        await bench.advance(1500);
        await drained;
      }
    }
    bench.actor("last");
    await ended(bench, ["r"], 3000);
    expect((await bench.story("r")).ends).toMatchObject([{ kind: "failed", error: { fields: { lostOwners: 3 } } }]);
  });

  it("also gives back a request whose ending the store does not take", async () => {
    const a = bench.actor("a");
    a.log.fates = Array.from({ length: 100 }, () => "lost" as const);
    await bench.put(request("r"));
    const drained = a.actor.drain(3000);
    await bench.advance(4000);
    await drained;
    expect(a.actor.counts.owned).toBe(0);
    bench.actor("b");
    await ended(bench, ["r"], 3000);
    expect((await bench.story("r")).ids).toEqual(await tokensOf(request("r")));
  });

  it("leaves no timer behind", async () => {
    const a = bench.actor("a");
    await bench.put(request("r"));
    await ended(bench, ["r"]);
    bench.cancel("somebody");
    await quiet();
    const drained = a.actor.drain(1000);
    // Ends the wait for work without any time passing.
    await bench.put(request("late"));
    await drained;
    expect(a.admitted).toHaveLength(1);
    await a.engine.close();
    expect(bench.clock.pending).toBe(0);
  });
});
