import { beforeEach, describe, expect, it, vi } from "vitest";
import { REQUEST_EVENTS, requestMachine } from "../../actors/attention/request.machine.ts";
import { OwnedRequest } from "../../actors/attention/owned-request.ts";
import { TokenLogWriter } from "../../actors/attention/token-log.ts";
import { openTokenLog } from "../../actors/protocol/streams.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { MemoryDurable } from "../../infra/memory-durable.ts";
import { request } from "../support/attention-bench.ts";
import { FakeTokenizer } from "../support/fake-tokenizer.ts";
import { quiet } from "../support/turns.ts";
import { transitionsOf, ways } from "./paths.ts";
import { type Circumstances, RequestDriver } from "./request-driver.ts";

/** The machines that the code under test makes, in order, and every transition that any of them has made. */
const seen = vi.hoisted(() => ({ machines: [] as { readonly phase: string }[], transitions: new Set<string>() }));

vi.mock("../../actors/attention/request-actor.ts", async (importOriginal) => {
  const original = await importOriginal<typeof import("../../actors/attention/request-actor.ts")>();
  return {
    createRequestActor: () => {
      const machine = original.createRequestActor();
      seen.machines.push(machine);
      const send: typeof machine.send = (type) => {
        const before = machine.phase;
        machine.send(type);
        if (machine.phase !== before) seen.transitions.add(`${before}+${type}`);
      };
      return Object.create(machine, { send: { value: send } }) as typeof machine;
    },
  };
});

const WAYS = ways(requestMachine, REQUEST_EVENTS);

beforeEach(() => {
  seen.machines.length = 0;
});

describe("the request machine at an attention actor, every event in every state", () => {
  const circumstances: Circumstances[] = [
    { store: "fine", fence: "log" },
    { store: "fine", fence: "drain" },
    { store: "held", fence: "drain" },
    { store: "unanswered", fence: "log" },
  ];
  for (const each of circumstances) {
    it.each(WAYS)(`store ${each.store}, fence by ${each.fence}: $told`, async ({ events, states }) => {
      const driver = await RequestDriver.open(each);
      let state = "queued";
      let machine: { readonly phase: string } | undefined;
      for (const [i, type] of events.entries()) {
        const next = events[i + 1];
        await driver.event(type, state, next);
        state = states[i] ?? "";
        // The replay of a full log leaves no time between the two.
        if (type === "admit" && next === "finish") continue;
        // The heir of a request that is lost has a machine of its own; one that never came to be owned has none.
        if (state !== "lost") machine ??= seen.machines[0];
        if (machine !== undefined) expect(machine.phase).toBe(state);
        else expect(["queued", "cancelled", "lost"]).toContain(state);
        await driver.expectState(state);
      }
      await driver.finish(state);
    });
  }
});

describe("the request machine of an owned request", () => {
  it.each(WAYS)("$told", async ({ events, states }) => {
    const clock = new SimulatedClock();
    const log = await openTokenLog(new MemoryDurable({ clock }), subjectsOf("d"));
    const said: string[] = [];
    const job = {
      id: "r",
      payload: new Uint8Array(),
      delivery: 1,
      working: () => undefined,
      done: async () => void said.push("done"),
      release: () => void said.push("given back"),
    };
    const isReplay = events.some((type, i) => type === "admit" && events[i + 1] === "finish");
    const owned: OwnedRequest = new OwnedRequest({
      request: request("r", { maxTokens: 4, deadline: 10_000 }),
      job,
      clock,
      owner: "a",
      promptTokens: 3,
      eosTokenIds: [1],
      decoder: new FakeTokenizer().decodeStream(),
      writer: new TokenLogWriter({
        log,
        clock,
        subject: subjectsOf("d").tokens("r"),
        requestId: "r",
        owner: "a",
        request: "fingerprint",
        lastSeq: 0,
        numTokens: isReplay ? 4 : 0,
        spacing: () => 0,
        fenced: () => owned.fence(),
        warn: () => undefined,
      }),
      loggedIds: isReplay ? [5, 6, 8, 9] : [],
      release: () => void said.push("released"),
      over: () => void said.push("over"),
    });
    const [machine] = seen.machines;
    expect(machine?.phase).toBe("queued");
    let index = 0;
    let isAdmitted = false;
    for (const [i, type] of events.entries()) {
      const state = states[i - 1] ?? "queued";
      // The engine knows nothing of a request before it was admitted.
      const isGenerating = state === "prefilling" || state === "decoding";
      if (type === "admit" && !isAdmitted && state === "queued") isAdmitted = owned.replay() || true;
      if (type === "firstToken" && state !== "queued") owned.token({ key: 1, index: index++, id: 5 });
      if (type === "finish" && !isReplay && state !== "queued") {
        if (isGenerating && state === "prefilling") owned.token({ key: 1, index: index++, id: 5 });
        owned.token({ key: 1, index: index++, id: 5, finish: "length" });
      }
      if (type === "fail") owned.fail(new RallyError("session-failed", "the graph broke"));
      if (type === "cancel") owned.cancel();
      if (type === "fence") owned.giveBack();
      if (type === "admit" && events[i + 1] === "finish") continue;
      expect(machine?.phase).toBe(states[i]);
    }
    owned.giveBack();
    await quiet();
    expect(said.filter((what) => what === "over")).toHaveLength(1);
    expect(clock.pending).toBe(0);
  });
});

it("and each of its transitions was made", () => {
  const expected = transitionsOf(requestMachine, REQUEST_EVENTS);
  expect(expected.length).toBeGreaterThan(10);
  expect([...seen.transitions].sort()).toEqual(expected);
});
