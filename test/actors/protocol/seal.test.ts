import { describe, expect, it } from "vitest";
import { checkSeal, seal } from "../../../actors/protocol/seal.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MESSAGES } from "../../support/messages.ts";
import { encodedSealed } from "../../support/sealed.ts";

/** Everything that differs from it in one bit, or in one byte replaced or left out. */
function* damaged(good: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < good.length; at++) {
    const byte = good[at] as number;
    const others = [...Array.from({ length: 8 }, (_, bit) => byte ^ (1 << bit)), 0, 0xff];
    for (const other of others) if (other !== byte) yield good.with(at, other);
    yield Uint8Array.from([...good.subarray(0, at), ...good.subarray(at + 1)]);
  }
}

describe("a seal", () => {
  it.each(["activations", "result", "refused"] as const)("of %s fits nothing else", (kind) => {
    const good = encodedSealed(MESSAGES[kind]);
    expect(() => checkSeal("it", good)).not.toThrow();
    for (const bytes of damaged(good)) expect(() => checkSeal("it", bytes)).toThrow(RallyError);
  });

  it("that does not fit is told as corrupted, to be sent again at once", () => {
    const bytes = encodedSealed(MESSAGES.result);
    bytes[3] = (bytes[3] as number) ^ 1;
    const found = Buffer.from(bytes).readUInt32BE(bytes.length - 4);
    expect(() => checkSeal("the answer", bytes)).toThrow(
      expect.objectContaining({ code: "corrupted", fields: expect.objectContaining({ found, retryAfterMs: 1 }) }),
    );
  });

  it("is the CRC-32 that everybody has, over what comes before it", () => {
    const bytes = new Uint8Array(Buffer.from("123456789????"));
    seal(bytes);
    // python3: zlib.crc32(b"123456789")
    expect(Buffer.from(bytes).readUInt32BE(9)).toBe(0xcbf43926);
  });
});
