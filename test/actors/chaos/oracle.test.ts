import { describe, expect, it } from "vitest";
import { checkClient, checkLog } from "../../../actors/chaos/oracle.ts";
import { newRecord, type RequestRecord } from "../../../actors/chaos/request-record.ts";
import type { LogEvent } from "../../../actors/protocol/messages.ts";
import { encode } from "../../../infra/codec.ts";
import type { LogEntry } from "../../../infra/durable.ts";

const requestId = "r-1";
const EXPECTED = [11, 12, 13, 14];

const tokens = (index: number, ids: readonly number[], owner = "a"): LogEvent => ({
  kind: "tokens",
  requestId,
  owner,
  index,
  ids,
  texts: ids.map(() => ""),
});
const completed = (outputTokens: number): LogEvent => ({
  kind: "completed",
  requestId,
  owner: "a",
  finishReason: "length",
  text: "",
  usage: { promptTokens: 1, outputTokens },
});
const failed: LogEvent = {
  kind: "failed",
  requestId,
  owner: "a",
  error: { code: "overloaded", message: "full", fields: {} },
  usage: { promptTokens: 1, outputTokens: 2 },
};
const entries = (...events: readonly LogEvent[]): LogEntry[] =>
  events.map((event, i) => ({ seq: i + 1, payload: encode(event) }));

const flawsOf = (...events: readonly LogEvent[]) =>
  checkLog(requestId, entries(...events), EXPECTED).violations.map(({ flaw }) => flaw);

describe("checkLog", () => {
  it("finds nothing wrong with a log as it should be, whoever wrote it", () => {
    const checked = checkLog(
      requestId,
      entries(tokens(0, [11, 12]), tokens(2, [], "b"), tokens(2, [13, 14], "b"), completed(4)),
      EXPECTED,
    );
    expect(checked).toEqual({
      ids: EXPECTED,
      violations: [],
      ending: "completed",
      owners: [
        { owner: "a", from: 0, to: 2 },
        { owner: "b", from: 2, to: 4 },
      ],
    });
    expect(flawsOf(tokens(0, [11, 12]), failed)).toEqual([]);
  });

  it.each<readonly [string, readonly LogEvent[], readonly string[]]>([
    ["a changed token", [tokens(0, [11, 99, 13, 14]), completed(4)], ["differing"]],
    ["a token too many", [tokens(0, [...EXPECTED, 15]), completed(5)], ["differing"]],
    ["a hole", [tokens(0, [11]), tokens(2, [13, 14]), completed(4)], ["lost"]],
    ["a missing last token", [tokens(0, [11, 12, 13]), completed(3)], ["lost"]],
    ["an ending that counts more", [tokens(0, [11, 12, 13]), completed(4)], ["lost"]],
    ["an ending that counts fewer", [tokens(0, EXPECTED), completed(3)], ["duplicated"]],
    ["a token twice", [tokens(0, [11, 12]), tokens(1, [12, 13, 14]), completed(4)], ["duplicated"]],
    ["two endings", [tokens(0, EXPECTED), completed(4), completed(4)], ["duplicated"]],
    ["a token after the ending", [tokens(0, EXPECTED), completed(4), tokens(4, [15])], ["duplicated", "differing"]],
    ["no ending", [tokens(0, EXPECTED)], ["unended"]],
    ["nothing at all", [], ["unended"]],
  ])("sees %s", (_, events, flaws) => {
    expect(flawsOf(...events).toSorted()).toEqual([...flaws].sort());
  });

  it("sees what is not about the request", () => {
    const foreign = [{ seq: 1, payload: Uint8Array.of(1, 2, 3) }, ...entries(tokens(0, EXPECTED), completed(4))];
    expect(checkLog(requestId, foreign, EXPECTED).violations.map(({ flaw }) => flaw)).toEqual(["differing"]);
  });
});

describe("checkClient", () => {
  const logged = checkLog(requestId, entries(tokens(0, EXPECTED), completed(4)), EXPECTED);
  const record = (changes: Partial<RequestRecord>): RequestRecord => ({
    ...newRecord({ requestId, pool: 0, startedMs: 0, allowedMs: 5_000 }),
    ids: [...EXPECTED],
    arrivals: [1, 2, 3, 4],
    ending: "completed",
    endedMs: 100,
    ...changes,
  });
  const flaws = (changes: Partial<RequestRecord>) =>
    checkClient(record(changes), EXPECTED, logged).map(({ flaw }) => flaw);

  it("finds nothing wrong with a stream as it should be", () => {
    expect(flaws({})).toEqual([]);
    // Cut short by an error: what came was right.
    expect(
      checkClient(record({ ids: [11, 12], ending: "overloaded" }), EXPECTED, { ...logged, ending: "overloaded" }),
    ).toEqual([]);
  });

  it("sees what the log cannot show", () => {
    expect(flaws({ ids: [11, 99, 13, 14] })).toEqual(["differing"]);
    expect(flaws({ ids: [...EXPECTED, 15] })).toEqual(["differing"]);
    expect(flaws({ ids: [11, 12] })).toEqual(["lost"]);
    expect(flaws({ misplaced: 1 })).toEqual(["duplicated"]);
    expect(flaws({ ending: undefined, endedMs: undefined })).toEqual(["unended"]);
    expect(flaws({ endedMs: 6_001 })).toEqual(["unended"]);
    expect(flaws({ ending: "internal" })).toEqual(["failed"]);
  });
});
