import { describe, expect, it } from "vitest";
import { readLogged } from "../../../actors/attention/logged.ts";
import { encode } from "../../../infra/codec.ts";

const tokens = (index: number, ids: readonly number[], change: object = {}) =>
  encode({ kind: "tokens", requestId: "r", owner: "a", index, ids, texts: ids.map(() => "x"), ...change });
const cancelled = encode({
  kind: "cancelled",
  requestId: "r",
  owner: "a",
  usage: { promptTokens: 1, outputTokens: 3 },
});
const read = (...payloads: Uint8Array[]) =>
  readLogged(
    payloads.map((payload, i) => ({ seq: 10 * (i + 1), payload })),
    "r",
  );

describe("readLogged", () => {
  it("of an empty log says that nobody has begun", () => {
    expect(read()).toEqual({ lastSeq: 0, tokenIds: [], hasEnded: false, numIdleClaims: 0, numForeign: 0 });
  });

  it("joins the tokens and counts claims since the last of them", () => {
    expect(read(tokens(0, [5, 6]), tokens(2, []), tokens(2, [7]), tokens(3, []), tokens(3, []))).toEqual({
      lastSeq: 50,
      tokenIds: [5, 6, 7],
      hasEnded: false,
      numIdleClaims: 2,
      numForeign: 0,
    });
  });

  it("does not count an owner that has given the request back in good order", () => {
    const left = (index: number) => tokens(index, [], { left: true });
    expect(read(left(0))).toMatchObject({ numIdleClaims: -1 });
    expect(read(left(0), tokens(0, []), left(0), tokens(0, []))).toMatchObject({ numIdleClaims: 0 });
    expect(read(tokens(0, [5]), tokens(1, []), left(1), tokens(1, []))).toMatchObject({ numIdleClaims: 1 });
  });

  it("sees an ending", () => {
    expect(read(tokens(0, [5]), cancelled)).toMatchObject({ hasEnded: true, lastSeq: 20 });
  });

  it("steps over what is no entry of this request, but not over its place in the log", () => {
    const foreign = [Uint8Array.of(0xc1), tokens(7, [9], { requestId: "other" }), encode({ kind: "completed" })];
    expect(read(tokens(0, [5]), ...foreign)).toMatchObject({ tokenIds: [5], numForeign: 3, lastSeq: 40 });
  });

  it("refuses a log that repeats or leaves out a token", () => {
    for (const index of [0, 2]) {
      expect(() => read(tokens(0, [5]), tokens(index, [6]))).toThrow(
        expect.objectContaining({ code: "internal", fields: { requestId: "r", index, expected: 1 } }),
      );
    }
  });
});
