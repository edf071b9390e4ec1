import { describe, expect, it } from "vitest";
import { decode, encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";

function refusal(action: () => unknown): RallyError {
  try {
    action();
  } catch (error) {
    if (error instanceof RallyError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

const refusedBytes = (...bytes: number[]) => refusal(() => decode(Uint8Array.from(bytes)));

describe("round trips", () => {
  it.each<unknown>([
    null,
    true,
    false,
    0,
    127,
    128,
    -1,
    -33,
    65_536,
    2 ** 32,
    1_790_000_000_123,
    Number.MAX_SAFE_INTEGER,
    -Number.MAX_SAFE_INTEGER,
    0.1,
    -1.5e300,
    Infinity,
    "",
    "é 𝒜 \0",
    "x".repeat(70_000),
    [],
    [1, [2, [3]]],
    {},
    { kind: "a", list: [{ b: null }], constructor: 1, toJSON: "x", "": 2 },
  ])("%j", (value) => {
    expect(decode(encode(value))).toEqual(value);
  });

  it("keeps bytes of every size as bytes", () => {
    for (const length of [0, 1, 255, 256, 65_535, 65_536, 3_000_000]) {
      const bytes = new Uint8Array(length).map((_, i) => i * 7);
      const result = decode(encode({ before: "x", bytes, after: 1 })) as { bytes: Uint8Array; after: number };
      expect(Buffer.compare(result.bytes, bytes)).toBe(0);
      expect(result.after).toBe(1);
    }
  });

  it("copies the bytes of a large message once: the first buffer is large enough", () => {
    for (const length of [6_000, 50_000, 1_000_000]) {
      const message = {
        name: "ｅ".repeat(64),
        list: Array.from({ length: 200 }, (_, i) => i / 3),
        nested: { a: "b".repeat(500) },
      };
      const bytes = encode({ ...message, first: new Uint8Array(length), second: new Uint8Array(length) });
      // A copy would fit exactly, and msgpackr quadruples what it outgrows.
      expect(bytes.buffer.byteLength).toBeGreaterThan(bytes.length);
      expect(bytes.buffer.byteLength).toBeLessThan(2 * length + 8_192);
    }
  });

  it("leaves undefined properties out and makes lone surrogates readable", () => {
    expect(decode(encode({ a: undefined, b: "x\ud800y", c: [undefined, "\udc00"], "k\ud800": 1 }))).toEqual({
      b: "x\ufffdy",
      c: [null, "\ufffd"],
      "k\ufffd": 1,
    });
  });

  it("gives results that later calls do not touch", () => {
    const results = Array.from({ length: 50 }, (_, i) => encode({ i, bytes: new Uint8Array(i * 400).fill(i) }));
    for (const [i, bytes] of results.entries()) {
      const result = decode(bytes) as { i: number; bytes: Uint8Array };
      expect([result.i, Buffer.compare(result.bytes, Buffer.alloc(i * 400, i))]).toEqual([i, 0]);
    }
  });

  it("reads 64-bit integers as numbers where they are safe, else as bigints", () => {
    expect(decode(Uint8Array.of(0xcf, 0, 0, 1, 0, 0, 0, 0, 5))).toBe(2 ** 40 + 5);
    expect(decode(Uint8Array.of(0xd3, 255, 255, 255, 255, 255, 255, 255, 254))).toBe(-2);
    expect(decode(Uint8Array.of(0xcf, 255, 255, 255, 255, 255, 255, 255, 255))).toBe(2n ** 64n - 1n);
  });
});

describe("what msgpack would corrupt is refused", () => {
  it.each([
    ["Float32Array", { hidden: new Float32Array(2) }, "hidden"],
    ["Uint16Array", { deep: { bits: [new Uint16Array(2)] } }, "bits"],
    ["BigInt64Array", new BigInt64Array(1), "message"],
    ["Date", { at: new Date(0) }, "at"],
    ["Map", { map: new Map() }, "map"],
    ["ArrayBuffer", { buffer: new ArrayBuffer(4) }, "buffer"],
    ["function", { run: () => 1 }, "run"],
    ["RallyError", { error: new RallyError("internal", "x") }, "error"],
  ])("%s", (found, value, field) => {
    expect(refusal(() => encode(value))).toMatchObject({ code: "bad-message", fields: { field, found } });
  });

  it("a value that contains itself", () => {
    const loop: Record<string, unknown> = {};
    loop["loop"] = loop;
    expect(refusal(() => encode(loop)).code).toBe("bad-message");
  });
});

describe("bytes that are no message are refused", () => {
  it.each([
    ["nothing at all", []],
    ["bytes after the end", [0x01, 0x02]],
    ["text cut short", [0xa5, 0x61]],
    ["a length cut short", [0xda, 0x01]],
    ["a number cut short", [0xcb, 0, 0]],
    ["an absurd byte count", [0xc6, 0xff, 0xff, 0xff, 0xff]],
    ["an absurd list", [0xdd, 0xff, 0xff, 0xff, 0xff]],
    ["an absurd map", [0xdf, 0x7f, 0xff, 0xff, 0xff]],
    ["a map without its last value", [0x81, 0xa1, 0x61]],
    ["the byte that is never used", [0xc1]],
    ["an extension", [0xd4, 0x01, 0x00]],
    ["undefined", [0xd4, 0x00, 0x00]],
    ["a timestamp", [0xd6, 0xff, 0, 0, 0, 0]],
    ["a record definition", [0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61, 0x01]],
    ["a variable extension", [0xc7, 0x01, 0x05, 0x00]],
    ["a key that is a number", [0x81, 0x01, 0x02]],
    ["a key that is a list", [0x81, 0x90, 0x02]],
    ["a key that is bytes", [0x81, 0xc4, 0x01, 0x61, 0x02]],
    ["text that is not UTF-8", [0xa2, 0xc3, 0x28]],
    ["a surrogate in UTF-8's clothes", [0xa3, 0xed, 0xa0, 0x80]],
  ])("%s", (_, bytes) => {
    expect(refusedBytes(...bytes).code).toBe("bad-message");
  });

  it("says where and what", () => {
    expect(refusedBytes(0x92, 0x01, 0xc7)).toMatchObject({
      message: "message has an extension type at byte 2: found 0xc7, expected plain msgpack values",
      fields: { offset: 2, found: "0xc7" },
    });
  });

  it("__proto__ as a key, however long its length is written", () => {
    const name = [...Buffer.from("__proto__")];
    for (const header of [[0xa9], [0xd9, 9], [0xda, 0, 9], [0xdb, 0, 0, 0, 9]]) {
      const error = refusedBytes(0x81, ...header, ...name, 0x80);
      expect(error.fields["found"]).toBe("__proto__");
    }
    expect(decode(Uint8Array.from([0xa9, ...name]))).toBe("__proto__");
  });

  it("deep nesting, at once and without a stack overflow", () => {
    const lists = new Uint8Array(200_000).fill(0x91);
    const maps = Uint8Array.from({ length: 200_000 * 3 }, (_, i) => [0x81, 0xa1, 0x61][i % 3] as number);
    expect(refusal(() => decode(lists)).message).toContain("nested too deep");
    expect(refusal(() => decode(maps)).message).toContain("nested too deep");
  });

  it("a flood of empty maps", () => {
    const flood = new Uint8Array(1_000_005).fill(0x80);
    flood.set([0xdd, 0, 0x0f, 0x42, 0x40]);
    expect(refusal(() => decode(flood)).message).toContain("too many maps");
  });

  it("leaves the decoder fit for the next message", () => {
    refusedBytes(0x92, 0xa5, 0x61);
    expect(decode(encode({ a: [1, "zwei"] }))).toEqual({ a: [1, "zwei"] });
  });
});

it("reads the rest of a message whose text is not UTF-8 when asked to", () => {
  const bytes = Uint8Array.from([0x82, 0xa1, 0x61, 0xa3, 0xc3, 0x28, 0xff, 0xa1, 0x62, 0xa2, 0x6f, 0x6b]);
  const before = Uint8Array.from(bytes);
  expect(decode(bytes, "replace")).toEqual({ a: "???", b: "ok" });
  expect(bytes).toEqual(before);
});

it("never throws anything but bad-message, whatever the first bytes", () => {
  let refusals = 0;
  for (let first = 0; first < 256; first++) {
    for (let second = 0; second < 256; second += 5) {
      try {
        decode(Uint8Array.of(first, second, 0xff, 0x80));
      } catch (error) {
        if (!(error instanceof RallyError) || error.code !== "bad-message") throw error;
        refusals++;
      }
    }
  }
  expect(refusals).toBeGreaterThan(10_000);
});
