import { describe, expect, it } from "vitest";
import {
  decodeActivationBatch,
  decodeExpertResult,
  decodeGenerateRequest,
  decodeLogEvent,
  decodeOffer,
  decodeOfferAnswer,
  decodePlacement,
  isEnd,
  requestIdOf,
} from "../../../actors/protocol/decode.ts";
import type { Message } from "../../../actors/protocol/messages.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../../models/sampling/params.ts";
import { MESSAGES } from "../../support/messages.ts";

type Change = Readonly<Record<string, unknown>>;

function refusal(action: () => unknown): RallyError {
  try {
    action();
  } catch (error) {
    if (error instanceof RallyError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** A decoder over a good message with some fields changed. */
const changed =
  (decoder: (bytes: Uint8Array) => unknown, good: Message) =>
  (change: Change): RallyError =>
    refusal(() => decoder(encode({ ...good, ...change })));

const { request, offer, offered, tokens, completed, failed, cancelled, activations, result, refused, placement } =
  MESSAGES;
const tensor = activations.hidden;

describe("every message comes out as it went in", () => {
  it.each([
    ["request", decodeGenerateRequest, request],
    ["offer", decodeOffer, offer],
    ["an offer's refusal", decodeOfferAnswer, offered],
    ["an offer's welcome", decodeOfferAnswer, { kind: "offered" }],
    ["tokens", decodeLogEvent, tokens],
    ["completed", decodeLogEvent, completed],
    ["failed", decodeLogEvent, failed],
    ["cancelled", decodeLogEvent, cancelled],
    ["activations", decodeActivationBatch, activations],
    ["result", decodeExpertResult, result],
    ["refused", decodeExpertResult, refused],
    ["placement", decodePlacement, placement],
  ] as const)("%s", (_, decoder, message) => {
    // Not a Buffer: its views would be Buffers too.
    expect(decoder(Uint8Array.from(encode(message)))).toEqual(message);
  });

  it("only the last kinds end a log", () => {
    expect([tokens, completed, failed, cancelled].map(isEnd)).toEqual([false, true, true, true]);
  });
});

it.each([{ maxTokens: 0 }, { maxTokens: 1_000_001 }, { deadline: -1 }, { kind: "generate" }])(
  "an offer is refused with %j",
  (change) => {
    const [field] = Object.keys(change);
    expect(changed(decodeOffer, offer)(change)).toMatchObject({ code: "bad-message", fields: { field } });
  },
);

describe("a request", () => {
  const wrong = changed(decodeGenerateRequest, request);

  it.each([
    ["kind", { kind: "tokens" }],
    ["requestId", { requestId: "" }],
    ["requestId", { requestId: "a.b" }],
    ["requestId", { requestId: "*" }],
    ["requestId", { requestId: "x".repeat(65) }],
    ["requestId", { requestId: 7 }],
    ["deployment", { deployment: "" }],
    ["deployment", { deployment: null }],
    ["prompt", { prompt: "" }],
    ["prompt", { prompt: [] }],
    ["prompt", { prompt: null }],
    ["prompt", { prompt: { text: "x" } }],
    ["prompt", { prompt: [1, -1] }],
    ["prompt", { prompt: [1.5] }],
    ["prompt", { prompt: ["1"] }],
    ["prompt", { prompt: [2 ** 31] }],
    ["prompt", { prompt: "x".repeat(4_000_001) }],
    ["maxTokens", { maxTokens: 0 }],
    ["maxTokens", { maxTokens: 1.5 }],
    ["maxTokens", { maxTokens: "5" }],
    ["maxTokens", { maxTokens: 1_000_001 }],
    ["maxTokens", { maxTokens: Number.NaN }],
    ["stop", { stop: "x" }],
    ["stop", { stop: ["a", "b", "c", "d", "e"] }],
    ["stop", { stop: [""] }],
    ["stop", { stop: ["x".repeat(201)] }],
    ["stop", { stop: [1] }],
    ["logprobs", { logprobs: -1 }],
    ["logprobs", { logprobs: 21 }],
    ["logprobs", { logprobs: true }],
    ["deadline", { deadline: 0 }],
    ["deadline", { deadline: "soon" }],
    ["deadline", { deadline: 2 ** 53 }],
    ["sampling", { sampling: [] }],
    ["sampling", { sampling: 1 }],
    ["sampling.heat", { sampling: { heat: 1 } }],
    ["sampling.temperature", { sampling: { temperature: -0.1 } }],
    ["sampling.topP", { sampling: { topP: 0 } }],
    ["temprature", { temprature: 1 }],
  ])("with a wrong %s is refused by name: %j", (field, change) => {
    const error = wrong(change);
    expect(error.code).toBe("bad-request");
    expect(error.fields["field"]).toBe(field);
  });

  it("names what was found and what is allowed", () => {
    expect(wrong({ maxTokens: 0 })).toMatchObject({
      message: "maxTokens must be an integer from 1 to 1000000, found 0",
      fields: { field: "maxTokens", found: "0", expected: "an integer from 1 to 1000000" },
    });
  });

  it("may leave out sampling, stop and logprobs", () => {
    const { sampling: _sampling, stop: _stop, logprobs: _logprobs, ...least } = request;
    expect(decodeGenerateRequest(encode(least))).toEqual({ ...least, sampling: DEFAULT_SAMPLING, stop: [] });
    const nothing = { ...least, sampling: null, stop: null, logprobs: null };
    expect(decodeGenerateRequest(encode(nothing))).toEqual({ ...least, sampling: DEFAULT_SAMPLING, stop: [] });
  });

  it("takes token ids and 64-bit integers", () => {
    expect(decodeGenerateRequest(encode({ ...request, prompt: [0, 4095] })).prompt).toEqual([0, 4095]);
    const deadline = BigInt(request.deadline);
    expect(decodeGenerateRequest(encode({ ...request, deadline })).deadline).toBe(request.deadline);
  });

  it("that is no map is refused", () => {
    for (const value of [null, 1, "x", [], [request], new Uint8Array(3)]) {
      expect(refusal(() => decodeGenerateRequest(encode(value))).code).toBe("bad-request");
    }
  });
});

describe("who is to be told of a bad request", () => {
  it("is read where there is a request id at all", () => {
    expect(requestIdOf(encode({ ...request, maxTokens: -1 }))).toBe(request.requestId);
    expect(requestIdOf(encode({ requestId: "r_1-A" }))).toBe("r_1-A");
    const bytes = Uint8Array.from(encode({ requestId: "r1", prompt: "ab" }));
    bytes.set([0xc3, 0x28], bytes.length - 2);
    expect(refusal(() => decodeGenerateRequest(bytes)).message).toContain("not UTF-8");
    expect(requestIdOf(bytes)).toBe("r1");
  });

  it("is nobody otherwise", () => {
    for (const value of [null, [], { requestId: 5 }, { requestId: "a.b" }, { requestId: "" }, {}]) {
      expect(requestIdOf(encode(value))).toBeUndefined();
    }
    expect(requestIdOf(Uint8Array.of(0xc1))).toBeUndefined();
    expect(requestIdOf(encode(request).subarray(0, 40))).toBeUndefined();
  });
});

describe("a log event", () => {
  it.each([
    ["kind", { kind: "token" }],
    ["requestId", { requestId: "a b" }],
    ["owner", { owner: "" }],
    ["index", { index: -1 }],
    ["index", { index: Number.MAX_SAFE_INTEGER }],
    ["ids", { ids: "1" }],
    ["ids", { ids: [1, 2, 3.5] }],
    ["ids", { ids: [1, 2, -3] }],
    ["texts", { texts: ["a"] }],
    ["texts", { texts: [1, 2, 3] }],
    ["logprobs", { logprobs: [] }],
    ["logprobs", { logprobs: {} }],
    ["logprobs", { logprobs: [1, 2, 3] }],
    ["logprob", { logprobs: [{}, {}, {}] }],
    ["logprob", { logprobs: [{ logprob: Number.NaN, top: [] }, 1, 1] }],
    ["logprob", { logprobs: [{ logprob: 0.5, top: [] }, 1, 1] }],
    ["top", { logprobs: [{ logprob: -1 }, 1, 1] }],
    ["top", { logprobs: [{ logprob: -1, top: [[1]] }, 1, 1] }],
    ["top", { logprobs: [{ logprob: -1, top: [[1, "x"]] }, 1, 1] }],
    ["top", { logprobs: [{ logprob: -1, top: [[-1, -1]] }, 1, 1] }],
    ["top", { logprobs: [{ logprob: -1, top: Array.from({ length: 21 }, () => [1, -1]) }, 1, 1] }],
  ])("of tokens with a wrong %s is refused: %j", (field, change) => {
    const error = changed(decodeLogEvent, tokens)(change);
    expect([error.code, error.fields["field"]]).toEqual(["bad-message", field]);
  });

  it.each([
    ["finishReason", completed, { finishReason: "done" }],
    ["text", completed, { text: null }],
    ["usage", completed, { usage: undefined }],
    ["promptTokens", completed, { usage: { promptTokens: -1, outputTokens: 0 } }],
    ["outputTokens", cancelled, { usage: { promptTokens: 1 } }],
    ["error", failed, { error: "boom" }],
    ["code", failed, { error: { message: "x", fields: {} } }],
    ["message", failed, { error: { code: "internal", fields: {} } }],
  ])("of the end with a wrong %s is refused", (field, good, change) => {
    const error = changed(decodeLogEvent, good)(change);
    expect([error.code, error.fields["field"]]).toEqual(["bad-message", field]);
  });

  it("carries an error of a newer peer as far as it can be understood", () => {
    const error = {
      code: "too-hot",
      message: "x".repeat(20_000),
      fields: { a: 1, b: "y", c: true, d: [1], e: null },
    };
    expect(decodeLogEvent(encode({ ...failed, error }))).toMatchObject({
      error: { code: "internal", message: "x".repeat(10_000), fields: { a: 1, b: "y", c: true } },
    });
  });
});

describe("activations", () => {
  it.each([
    ["kind", { kind: "result" }],
    ["deployment", { deployment: 1 }],
    ["epoch", { epoch: -1 }],
    ["attentionId", { attentionId: "a.>" }],
    ["passId", { passId: 0.5 }],
    ["microBatch", { microBatch: 65_536 }],
    ["layer", { layer: -1 }],
    ["part", { part: "0" }],
    ["attempt", { attempt: null }],
    ["deadline", { deadline: -5 }],
    ["hidden", { hidden: undefined }],
    ["hidden.shape", { hidden: { ...tensor, shape: [6] } }],
    ["hidden.bytes", { hidden: { ...tensor, shape: [3, 3] } }],
    ["hidden.dtype", { hidden: { ...tensor, dtype: "i32" } }],
    ["expertIds.dtype", { expertIds: activations.expertWeights }],
    ["expertIds.shape", { expertIds: { dtype: "i32", shape: [1, 2], bytes: new Uint8Array(8) } }],
    ["expertWeights.dtype", { expertWeights: activations.expertIds }],
    ["expertWeights.shape", { expertWeights: { dtype: "f32", shape: [2, 1], bytes: new Uint8Array(8) } }],
  ])("with a wrong %s are refused", (field, change) => {
    const error = changed(decodeActivationBatch, activations)(change);
    expect([error.code, error.fields["field"]]).toEqual(["bad-message", field]);
  });

  it("may carry what a newer peer adds", () => {
    expect(decodeActivationBatch(encode({ ...activations, hint: 1 }))).not.toHaveProperty("hint");
  });
});

it.each([
  ["kind", result, { kind: "answer" }],
  ["shard", result, { shard: -1 }],
  ["expertId", result, { expertId: "" }],
  ["output", result, { output: null }],
  ["output.dtype", result, { output: activations.expertIds }],
  ["output.shape", result, { output: { dtype: "f32", shape: [1, 1, 6], bytes: new Uint8Array(24) } }],
  ["waitUs", result, { waitUs: 1.5 }],
  ["computeUs", result, { computeUs: undefined }],
  ["error", refused, { error: [] }],
])("an expert result with a wrong %s is refused", (field, good, change) => {
  const error = changed(decodeExpertResult, good)(change);
  expect([error.code, error.fields["field"]]).toEqual(["bad-message", field]);
});

it.each([
  ["kind", { kind: "place" }],
  ["epoch", { epoch: "1" }],
  ["deployment", { deployment: 5 }],
  ["modelHash", { modelHash: "x".repeat(129) }],
  ["shards", { shards: {} }],
  ["shards", { shards: [0, 1] }],
  ["shards", { shards: [[0], [-1]] }],
  ["shards", { shards: [[0], ["1"]] }],
  ["shards", { shards: [[0, 1], [1]] }],
  ["shards", { shards: [[65_536]] }],
  ["sharedExperts", { sharedExperts: "experts" }],
  ["sharedExperts", { sharedExperts: 1 }],
])("a placement with a wrong %s is refused: %j", (field, change) => {
  const error = changed(decodePlacement, placement)(change);
  expect([error.code, error.fields["field"]]).toEqual(["bad-message", field]);
});
