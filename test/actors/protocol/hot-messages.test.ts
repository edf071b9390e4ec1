import { describe, expect, it } from "vitest";
import { decodeActivationBatch, decodeExpertResult } from "../../../actors/protocol/decode.ts";
import { AnswerEncoder, BatchDecoder, BatchEncoder, ResultDecoder } from "../../../actors/protocol/hot-messages.ts";
import type { ActivationBatch, ExpertResult } from "../../../actors/protocol/messages.ts";
import { seal } from "../../../actors/protocol/seal.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { toWireF32, toWireI32, type WireDtype } from "../../../infra/tensor.ts";
import { MESSAGES } from "../../support/messages.ts";
import { FuzzRandom, mutateBytes } from "../../support/mutations.ts";
import { encodedSealed } from "../../support/sealed.ts";

type Dtype = Exclude<WireDtype, "i32">;
const DTYPES: readonly Dtype[] = ["f32", "f16", "int8-row"];
const HIDDEN = 6;
const TOP_K = 2;

function batchOf(numRows: number, seed: number, dtype: Dtype = "f32"): ActivationBatch {
  const floats = (length: number) => Float32Array.from({ length }, (_, i) => ((i + seed) * 37) % 11);
  return {
    ...MESSAGES.activations,
    epoch: seed,
    passId: 2 ** 53 - 1 - seed * 2 ** 20,
    microBatch: seed % 3,
    layer: seed % 65_536,
    attempt: seed * 1000,
    hidden: toWireF32(floats(numRows * HIDDEN), [numRows, HIDDEN], dtype),
    expertIds: toWireI32(new Int32Array(numRows * TOP_K).fill(seed), [numRows, TOP_K]),
    expertWeights: toWireF32(floats(numRows * TOP_K), [numRows, TOP_K], "f32"),
  };
}

function answerOf(numRows: number, seed: number, dtype: Dtype = "f32"): ExpertResult {
  const { hidden, passId, microBatch, layer, attempt } = batchOf(numRows, seed, dtype);
  return {
    ...MESSAGES.result,
    passId,
    microBatch,
    layer,
    attempt,
    expertId: `expert-${seed % 2}`,
    shard: seed % 2,
    output: hidden,
    waitUs: seed,
    computeUs: 2 ** 40 + seed,
  };
}

/** Rows vary, as passes do. */
const SIZES = [1, 3, 3, 16, 1, 3, 70_000 / HIDDEN, 3].map(Math.floor);

/** What comes of bytes, errors included. */
function outcome(decode: (bytes: Uint8Array) => unknown, bytes: Uint8Array): unknown {
  try {
    return decode(bytes);
  } catch (error) {
    return RallyError.from(error).toWire();
  }
}

describe.each(DTYPES)("in %s", (dtype) => {
  it("activations are read again as they were, by whoever knows msgpack", () => {
    const [encoder, decoder] = [new BatchEncoder(), new BatchDecoder()];
    for (const [seed, numRows] of SIZES.entries()) {
      const batch = batchOf(numRows, seed, dtype);
      const bytes = Uint8Array.from(encoder.encode(batch));
      expect(decodeActivationBatch(bytes)).toEqual(batch);
      expect(decoder.decode(bytes)).toEqual(batch);
    }
  });

  it("so are answers", () => {
    const [encoder, decoder] = [new AnswerEncoder(), new ResultDecoder()];
    for (const [seed, numRows] of SIZES.entries()) {
      const answer = answerOf(numRows, seed, dtype);
      const bytes = Uint8Array.from(encoder.encode(answer));
      expect(decodeExpertResult(bytes)).toEqual(answer);
      expect(decoder.decode(bytes)).toEqual(answer);
    }
  });
});

it("a refusal is, too", () => {
  const bytes = Uint8Array.from(new AnswerEncoder().encode(MESSAGES.refused));
  seal(bytes);
  expect(bytes).toEqual(encodedSealed(MESSAGES.refused));
  expect(new ResultDecoder().decode(bytes)).toEqual(MESSAGES.refused);
});

it("another name, type or shape is not taken for the one before", () => {
  const encoder = new BatchEncoder();
  const decoder = new BatchDecoder();
  const others: ActivationBatch[] = [
    batchOf(3, 1),
    { ...batchOf(3, 1), attentionId: "attention-1" },
    { ...batchOf(3, 1), deployment: "e" },
    { ...batchOf(3, 1), deployment: "another" },
    batchOf(3, 1, "f16"),
    {
      ...batchOf(3, 1),
      expertIds: toWireI32(new Int32Array(3), [3, 1]),
      expertWeights: toWireF32(new Float32Array(3), [3, 1], "f32"),
    },
    batchOf(3, 2),
  ];
  for (const batch of [...others, ...others.toReversed()]) {
    const bytes = Uint8Array.from(encoder.encode(batch));
    expect(decodeActivationBatch(bytes)).toEqual(batch);
    expect(decoder.decode(bytes)).toEqual(batch);
  }
});

it("what was learnt from one message serves for the next of its kind", () => {
  const [encoder, decoder] = [new BatchEncoder(), new BatchDecoder()];
  const read = (batch: ActivationBatch) => decoder.decode(Uint8Array.from(encoder.encode(batch))).hidden.shape;
  const first = read(batchOf(3, 1));
  // A general codec makes each shape anew.
  expect(read(batchOf(3, 2))).toBe(first);
  expect(read({ ...batchOf(3, 2), deployment: "e" })).not.toBe(first);
  const [answers, results] = [new AnswerEncoder(), new ResultDecoder()];
  const shapeOf = (seed: number) => {
    const result = results.decode(Uint8Array.from(answers.encode(answerOf(3, seed))));
    return result.kind === "result" ? result.output.shape : undefined;
  };
  expect(shapeOf(4)).toBeDefined();
  const other = shapeOf(2);
  expect(shapeOf(4)).toBe(other);
});

it("messages of other peers, laid out as they like, are read all the same", () => {
  const decoder = new BatchDecoder();
  for (const seed of [1, 2, 3]) {
    const batch = batchOf(2, seed);
    expect(decoder.decode(encodedSealed(batch))).toEqual(batch);
    const { kind, ...rest } = batch;
    expect(decoder.decode(Uint8Array.from(encode({ ...rest, isNew: true, kind })))).toEqual(batch);
  }
});

it("a number beyond its limit is refused as ever", () => {
  const [encoder, decoder] = [new BatchEncoder(), new BatchDecoder()];
  decoder.decode(Uint8Array.from(encoder.encode(batchOf(2, 1))));
  const bytes = Uint8Array.from(encoder.encode({ ...batchOf(2, 1), layer: 65_536 }));
  expect(() => decoder.decode(bytes)).toThrow(
    expect.objectContaining({
      code: "bad-message",
      fields: expect.objectContaining({ field: "layer", found: "65536" }),
    }),
  );
});

describe("whatever is done to the bytes, whoever has learnt a layout sees what the codec sees", () => {
  it.each(DTYPES)("in %s", (dtype) => {
    const random = new FuzzRandom(7);
    const [batches, answers] = [new BatchDecoder(), new ResultDecoder()];
    const batch = Uint8Array.from(new BatchEncoder().encode(batchOf(3, 5, dtype)));
    const answer = Uint8Array.from(new AnswerEncoder().encode(answerOf(3, 5, dtype)));
    batches.decode(batch);
    answers.decode(answer);
    let numRead = 0;
    for (let number = 0; number < 3000; number++) {
      const [badBatch, badAnswer] = [mutateBytes(batch, random), mutateBytes(answer, random)];
      const seen = outcome((bytes) => batches.decode(bytes), badBatch);
      expect(seen).toEqual(outcome(decodeActivationBatch, badBatch));
      expect(outcome((bytes) => answers.decode(bytes), badAnswer)).toEqual(outcome(decodeExpertResult, badAnswer));
      if (seen !== null && typeof seen === "object" && "kind" in seen) numRead++;
    }
    expect(numRead).toBeGreaterThan(150);
  });
});
