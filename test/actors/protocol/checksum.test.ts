import { describe, expect, it } from "vitest";
import { batchCheck, resultCheck } from "../../../actors/protocol/checksum.ts";
import { decodeActivationBatch, decodeExpertResult } from "../../../actors/protocol/decode.ts";
import { encode } from "../../../infra/codec.ts";
import { toWireF32 } from "../../../infra/tensor.ts";
import { MESSAGES } from "../../support/messages.ts";

const activations = { ...MESSAGES.activations, check: batchCheck(MESSAGES.activations) };
const quantized = { ...activations, hidden: toWireF32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], "int8-row") };
const result = { ...MESSAGES.result, check: resultCheck(MESSAGES.result) };

/** Every message that differs from this one in one bit, or in one byte replaced or left out, and can still be read. */
function* damaged<T>(message: object, decode: (bytes: Uint8Array) => T): Generator<T> {
  const good = Uint8Array.from(encode(message));
  for (let at = 0; at < good.length; at++) {
    const changes = [...Array.from({ length: 8 }, (_, bit) => (good[at] as number) ^ (1 << bit)), 0, 0xff, undefined];
    for (const byte of changes) {
      const bytes = [...good.subarray(0, at), ...(byte === undefined ? [] : [byte]), ...good.subarray(at + 1)];
      try {
        yield decode(Uint8Array.from(bytes));
      } catch {
        // Refused as it is.
      }
    }
  }
}

const bytesOf = (tensor: { readonly bytes: Uint8Array; readonly scales?: Uint8Array }) => [
  ...tensor.bytes,
  ...(tensor.scales ?? []),
];

describe("a checksum that fits means that", () => {
  for (const [name, message] of Object.entries({
    activations,
    quantized: { ...quantized, check: batchCheck(quantized) },
  })) {
    it(`${name} are where they belong and what they were`, () => {
      let numCaught = 0;
      for (const batch of damaged(message, decodeActivationBatch)) {
        if (batch.check !== batchCheck(batch)) {
          numCaught++;
          continue;
        }
        const { passId, microBatch, layer, part, attempt, epoch } = message;
        expect(batch).toMatchObject({ passId, microBatch, layer, part, attempt, epoch });
        expect(bytesOf(batch.hidden)).toEqual(bytesOf(message.hidden));
        expect(bytesOf(batch.expertIds)).toEqual(bytesOf(message.expertIds));
        expect(bytesOf(batch.expertWeights)).toEqual(bytesOf(message.expertWeights));
      }
      expect(numCaught).toBeGreaterThan(200);
    });
  }

  it("so is a result", () => {
    let numCaught = 0;
    for (const answer of damaged(result, decodeExpertResult)) {
      if (answer.kind === "refused") throw new Error("a result has become a refusal");
      if (answer.check !== resultCheck(answer)) {
        numCaught++;
        continue;
      }
      const { passId, microBatch, layer, part, attempt, shard } = result;
      expect(answer).toMatchObject({ passId, microBatch, layer, part, attempt, shard });
      expect(bytesOf(answer.output)).toEqual(bytesOf(result.output));
    }
    expect(numCaught).toBeGreaterThan(100);
  });
});

it("does not depend on where empty tensors lie", () => {
  const nothing = { dtype: "i32", shape: [0, 0], bytes: new Uint8Array() } as const;
  const somewhere = { ...nothing, bytes: activations.hidden.bytes.subarray(4, 4) };
  const sums = [nothing, somewhere].map((ids) =>
    batchCheck({ ...activations, expertIds: ids, expertWeights: { ...ids, dtype: "f32" } }),
  );
  expect(new Set(sums).size).toBe(1);
  expect(sums[0]).not.toBe(0);
});

it("is the CRC-32 that everybody has", () => {
  const zeros = { passId: 0, microBatch: 0, layer: 0, part: 0, attempt: 0, shard: 0 };
  const output = { dtype: "f32", shape: [0, 0], bytes: Uint8Array.from("123456789", (c) => c.charCodeAt(0)) } as const;
  // python3: zlib.crc32(bytes(48) + b"123456789")
  expect(resultCheck({ kind: "result", expertId: "e", waitUs: 0, computeUs: 0, ...zeros, output })).toBe(4_029_477_780);
});
