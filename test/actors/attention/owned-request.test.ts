import { describe, expect, it } from "vitest";
import { OwnedRequest } from "../../../actors/attention/owned-request.ts";
import { TokenLogWriter } from "../../../actors/attention/token-log.ts";
import { decodeLogEvent } from "../../../actors/protocol/decode.ts";
import { openTokenLog } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { request } from "../../support/attention-bench.ts";
import { FakeTokenizer } from "../../support/fake-tokenizer.ts";
import { FlakyLog } from "../../support/flaky-log.ts";
import { quiet } from "../../support/turns.ts";

const subject = subjectsOf("d").tokens("r");

async function open(deadline: number) {
  const clock = new SimulatedClock();
  const log = new FlakyLog(await openTokenLog(new MemoryDurable({ clock }), subjectsOf("d")));
  const said: string[] = [];
  const job = {
    id: "r",
    payload: new Uint8Array(),
    delivery: 1,
    working: () => void said.push("working"),
    done: async () => void said.push("done"),
    release: () => void said.push("job released"),
  };
  const writer = new TokenLogWriter({
    log,
    clock,
    subject,
    requestId: "r",
    owner: "a",
    request: "fingerprint",
    lastSeq: 0,
    numTokens: 0,
    spacing: () => 0,
    fenced: () => owned.fence(),
    warn: () => undefined,
  });
  const owned: OwnedRequest = new OwnedRequest({
    request: request("r", { deadline }),
    job,
    clock,
    owner: "a",
    promptTokens: 3,
    eosTokenIds: [1],
    decoder: new FakeTokenizer().decodeStream(),
    writer,
    loggedIds: [],
    release: () => void said.push("sequence released"),
    over: () => void said.push("over"),
  });
  const kinds = async () => (await log.read(subject)).map(({ payload }) => decodeLogEvent(payload).kind);
  return { clock, owned, said, log, kinds };
}

describe("OwnedRequest", () => {
  it("reaches deadlines that no timer can: in steps of what one can hold", async () => {
    const far = 2 ** 33;
    const { clock, owned, kinds } = await open(far);
    const waits: number[] = [];
    const after = clock.after.bind(clock);
    clock.after = (ms, callback) => {
      waits.push(ms);
      return after(ms, callback);
    };
    owned.replay();
    clock.advance(far - 1);
    await quiet();
    expect(await kinds()).toEqual([]);
    clock.advance(1);
    await quiet();
    expect(await kinds()).toEqual(["failed"]);
    expect(Math.max(...waits)).toBeLessThan(2 ** 31);
    expect(clock.pending).toBe(0);
  });

  it("has one ending, whatever else befalls it afterwards", async () => {
    const { clock, owned, said, kinds } = await open(1000);
    owned.replay();
    owned.token({ key: 1, index: 0, id: 9 });
    owned.token({ key: 1, index: 1, id: 8, finish: "length" });
    owned.cancel();
    owned.fail(new RallyError("internal", "too late"));
    owned.token({ key: 1, index: 2, id: 8 });
    await quiet();
    owned.fence();
    owned.giveBack();
    clock.advance(2000);
    await quiet();
    expect(await kinds()).toEqual(["tokens", "tokens", "completed"]);
    expect(said.filter((what) => what !== "sequence released")).toEqual(["done", "over"]);
    expect(clock.pending).toBe(0);
  });

  it("given back says so in the log, once, and frees everything", async () => {
    const { clock, owned, said, log } = await open(1000);
    owned.replay();
    owned.giveBack();
    owned.giveBack();
    owned.cancel();
    expect(said).toEqual(["sequence released"]);
    await quiet();
    expect(said.filter((what) => what !== "sequence released")).toEqual(["over", "job released"]);
    clock.advance(2000);
    await quiet();
    const events = (await log.read(subject)).map(({ payload }) => decodeLogEvent(payload));
    expect(events).toMatchObject([{ kind: "tokens", ids: [], left: true, owner: "a", request: "fingerprint" }]);
    expect(clock.pending).toBe(0);
  });

  it("given back with an append on its way says nothing more, and goes at once", async () => {
    const { owned, said, log, kinds } = await open(1000);
    owned.replay();
    log.fates = [quiet(20)];
    owned.token({ key: 1, index: 0, id: 9 });
    owned.giveBack();
    await quiet(3);
    expect(said).toContain("job released");
    await quiet(40);
    expect(await kinds()).toEqual(["tokens"]);
  });

  it("given back while the store is away waits for half a second", async () => {
    const { clock, owned, said, log } = await open(1000);
    owned.replay();
    log.fates = [new Promise(() => undefined)];
    owned.giveBack();
    await quiet();
    clock.advance(499);
    expect(said).toEqual(["sequence released"]);
    clock.advance(1);
    expect(said).toContain("job released");
    expect(clock.pending).toBe(0);
  });

  it("takes a token out of line for a bug of ours", async () => {
    const { owned } = await open(1000);
    owned.replay();
    expect(() => owned.token({ key: 1, index: 1, id: 9 })).toThrow("broken invariant: token 1 follows 0");
  });
});
