import { describe, expect, it } from "vitest";
import { TokenLogWriter } from "../../../actors/attention/token-log.ts";
import { decodeLogEvent } from "../../../actors/protocol/decode.ts";
import type { EndEvent, LogEvent } from "../../../actors/protocol/messages.ts";
import { openTokenLog } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { FlakyLog } from "../../support/flaky-log.ts";
import { quiet } from "../../support/turns.ts";

const subject = subjectsOf("d").tokens("r");
const ending: EndEvent = {
  kind: "completed",
  requestId: "r",
  owner: "a",
  finishReason: "length",
  text: "",
  usage: { promptTokens: 1, outputTokens: 1 },
};

async function open(spacing = 0) {
  const clock = new SimulatedClock();
  const log = new FlakyLog(await openTokenLog(new MemoryDurable({ clock }), subjectsOf("d")));
  const warnings: string[] = [];
  const fenced: string[] = [];
  const writerOf = (owner: string, lastSeq = 0, numTokens = 0) =>
    new TokenLogWriter({
      log,
      clock,
      subject,
      requestId: "r",
      owner,
      request: "fingerprint",
      lastSeq,
      numTokens,
      spacing: () => spacing,
      fenced: () => void fenced.push(owner),
      warn: (text) => void warnings.push(text),
    });
  const events = async (): Promise<LogEvent[]> =>
    (await log.read(subject)).map(({ payload }) => decodeLogEvent(payload));
  /** [index, ids] of each event with tokens, the kind of every other. */
  const story = async () =>
    (await events()).map((event) => (event.kind === "tokens" ? [event.index, [...event.ids]] : event.kind));
  return { clock, log, warnings, fenced, writerOf, events, story };
}

const token = (id: number) => ({ id, text: `${id} ` });

describe("TokenLogWriter", () => {
  it("appends at once, gathers while an append is under way, ends last", async () => {
    const { clock, log, writerOf, events, story } = await open();
    let stored = () => {};
    log.fates = [new Promise<void>((resolve) => (stored = resolve))];
    const writer = writerOf("a");
    for (let id = 0; id < 5; id++) writer.push(token(id));
    const ended = writer.end(ending);
    await quiet();
    expect(log.appends).toEqual([{ id: "r:0:a", expectedLastSeq: 0 }]);
    stored();
    expect(await ended).toBe(true);
    expect(await story()).toEqual([[0, [0]], [1, [1, 2, 3, 4]], "completed"]);
    expect((await events())[1]).toMatchObject({ owner: "a", texts: ["1 ", "2 ", "3 ", "4 "] });
    expect(log.appends.map(({ id }) => id)).toEqual(["r:0:a", "r:1:a", "r:end:a"]);
    expect(clock.pending).toBe(0);
  });

  it("is not taken for a duplicate of another owner's entry at the same index", async () => {
    const { writerOf, fenced, story } = await open();
    const [stale, owner] = [writerOf("a"), writerOf("b")];
    await owner.claim();
    owner.push(token(1));
    await quiet();
    stale.push(token(1));
    stale.push(token(2));
    await quiet();
    expect(fenced).toEqual(["a"]);
    expect(await story()).toEqual([
      [0, []],
      [0, [1]],
    ]);
  });

  it("keeps the spacing between appends, but lets an ending wait for nothing", async () => {
    const { clock, writerOf, story } = await open(100);
    const writer = writerOf("a");
    writer.push(token(1));
    await quiet();
    writer.push(token(2));
    clock.advance(99);
    writer.push(token(3));
    await quiet();
    expect(await story()).toEqual([[0, [1]]]);
    clock.advance(1);
    await quiet();
    expect(await story()).toEqual([
      [0, [1]],
      [1, [2, 3]],
    ]);
    writer.push(token(4));
    expect(await writer.end(ending)).toBe(true);
    expect(await story()).toEqual([[0, [1]], [1, [2, 3]], [3, [4]], "completed"]);
    expect(clock.pending).toBe(0);
  });

  it("cuts what has gathered for long into events of bounded size", async () => {
    const { writerOf, log, events } = await open(100);
    log.fates = [quiet(3)];
    const writer = writerOf("a");
    for (let id = 0; id < 600; id++) writer.push(token(id));
    await writer.end(ending);
    const sizes = (await events()).map((event) => (event.kind === "tokens" ? event.ids.length : 0));
    expect(sizes).toEqual([1, 256, 256, 87, 0]);
  });

  it("carries logprobs where asked for, and none otherwise", async () => {
    const { writerOf, events } = await open();
    const writer = writerOf("a");
    writer.push({ ...token(1), logprob: { logprob: -0.5, top: [[1, -0.5]] } });
    await quiet();
    writer.push(token(2));
    await quiet();
    expect((await events())[0]).toMatchObject({ logprobs: [{ logprob: -0.5, top: [[1, -0.5]] }] });
    expect((await events())[1]).not.toHaveProperty("logprobs");
  });

  for (const fate of ["lost", "unanswered"] as const) {
    it(`repeats an append that was ${fate} with the same id until it is answered: every token once`, async () => {
      const { clock, log, writerOf, story, warnings } = await open();
      log.fates = [fate, "lost", fate];
      const writer = writerOf("a");
      writer.push(token(1));
      writer.push(token(2));
      await quiet();
      expect(log.appends).toHaveLength(1);
      for (const ms of [49, 1, 99, 1, 249, 1]) {
        clock.advance(ms);
        await quiet();
      }
      expect(log.appends.slice(0, 4)).toEqual(Array.from({ length: 4 }, () => ({ id: "r:0:a", expectedLastSeq: 0 })));
      expect(await writer.end(ending)).toBe(true);
      expect(await story()).toEqual([[0, [1]], [1, [2]], "completed"]);
      expect(warnings).toHaveLength(1);
      expect(clock.pending).toBe(0);
    });
  }

  it("goes on asking for as long as the store is away, once a second", async () => {
    const { clock, log, writerOf, story } = await open();
    log.fates = Array.from({ length: 65 }, () => "lost" as const);
    const writer = writerOf("a");
    writer.push(token(1));
    for (let second = 0; second < 62; second++) {
      for (let i = 0; i < 4; i++) {
        clock.advance(250);
        await quiet(3);
      }
    }
    expect(await story()).toEqual([]);
    expect(log.appends.length).toBeLessThan(66);
    for (let i = 0; i < 12; i++) {
      clock.advance(1000);
      await quiet(3);
    }
    expect(await story()).toEqual([[0, [1]]]);
  });

  it("is fenced by a claim: nothing of the old owner reaches the log, and it is told once", async () => {
    const { clock, log, writerOf, story, fenced } = await open();
    const old = writerOf("a");
    old.push(token(1));
    await quiet();
    const [entry] = await log.read(subject);
    const heir = writerOf("b", entry?.seq, 1);
    await heir.claim();
    old.push(token(2));
    const ended = old.end(ending);
    heir.push(token(2));
    expect(await ended).toBe(false);
    old.push(token(3));
    expect(await old.end(ending)).toBe(false);
    expect(fenced).toEqual(["a"]);
    await heir.end({ ...ending, owner: "b" });
    expect(await story()).toEqual([[0, [1]], [1, []], [1, [2]], "completed"]);
    expect(clock.pending).toBe(0);
  });

  it("is fenced before its first token too", async () => {
    const { writerOf, story, fenced } = await open();
    const old = writerOf("a");
    await writerOf("b").claim();
    old.push(token(1));
    await quiet();
    expect(fenced).toEqual(["a"]);
    expect(await story()).toEqual([[0, []]]);
  });

  it("cannot claim a log that has moved on", async () => {
    const { writerOf } = await open();
    const old = writerOf("a");
    old.push(token(1));
    await quiet();
    await expect(writerOf("b", 0, 0).claim()).rejects.toMatchObject({ code: "stale-owner" });
  });

  it("may be abandoned at any moment, and is then silent for good", async () => {
    for (const fates of [[], ["lost"], [quiet(5)]] as FlakyLog["fates"][]) {
      const { clock, log, writerOf, fenced } = await open(100);
      log.fates = fates;
      const writer = writerOf("a");
      writer.push(token(1));
      await quiet(2);
      writer.push(token(2));
      const ended = writer.end(ending);
      writer.abandon();
      expect(await ended).toBe(false);
      await quiet();
      expect(clock.pending).toBe(0);
      const said = log.appends.length;
      writer.push(token(3));
      clock.advance(10_000);
      await quiet();
      expect(log.appends).toHaveLength(said);
      expect(fenced).toEqual([]);
    }
  });

  it("takes its own ending for written when it was, though the answer was lost", async () => {
    const { clock, log, writerOf, story } = await open();
    log.fates = ["unanswered"];
    const ended = writerOf("a").end(ending);
    await quiet();
    clock.advance(50);
    expect(await ended).toBe(true);
    expect(await story()).toEqual(["completed"]);
  });

  it("yields to foreign bytes in its log as to any other writer", async () => {
    const { log, writerOf, fenced } = await open();
    const writer = writerOf("a");
    await log.append(subject, encode("noise"), { id: "noise", expectedLastSeq: 0 });
    writer.push(token(1));
    await quiet();
    expect(fenced).toEqual(["a"]);
  });
});
