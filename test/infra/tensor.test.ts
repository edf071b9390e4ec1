import { describe, expect, it } from "vitest";
import { decode, encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import {
  checkWireTensor,
  fromWireF32,
  fromWireI32,
  toWireF32,
  toWireI32,
  type WireTensor,
} from "../../infra/tensor.ts";
import { TestRandom } from "../support/random-values.ts";

const DTYPES = ["f32", "f16", "int8-row"] as const;

function sent(tensor: WireTensor): WireTensor {
  return checkWireTensor((decode(encode({ tensor })) as { tensor: unknown }).tensor, "tensor");
}

function refusal(action: () => unknown): RallyError {
  try {
    action();
  } catch (error) {
    if (error instanceof RallyError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Independent of the tables: rounds by the definition, over all neighbours of a half. */
function nearestHalf(value: number): number {
  if (Number.isNaN(value)) return Number.NaN;
  const size = Math.abs(value);
  if (size >= 65_520) return Math.sign(value) * Infinity;
  const step = size < 2 ** -14 ? 2 ** -24 : 2 ** (Math.floor(Math.log2(size)) - 10);
  const low = Math.floor(size / step) * step;
  const rest = size - low;
  const up = rest > step / 2 || (rest === step / 2 && (low / step) % 2 === 1);
  const result = up ? low + step : low;
  return value < 0 || Object.is(value, -0) ? -result : result;
}

describe("f32", () => {
  it("is a view going out and bitwise the same coming in", () => {
    const data = Float32Array.of(1, -0, Number.NaN, Infinity, 1e-45, 3.4e38);
    const tensor = toWireF32(data, [2, 3], "f32");
    expect(tensor.bytes.buffer).toBe(data.buffer);
    expect(fromWireF32(sent(tensor), [2, 3])).toEqual(data);
  });

  it("sends a part of a larger array as that part", () => {
    const data = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
    expect([...fromWireF32(sent(toWireF32(data, [1, 2], "f32")), [1, 2])]).toEqual([2, 3]);
  });
});

it.each(DTYPES)("%s arrives whole at any alignment, into the target if there is one", (dtype) => {
  const data = Float32Array.of(127, -64, 1, 0, 2, -127);
  const tensor = toWireF32(data, [2, 3], dtype);
  for (let offset = 0; offset < 8; offset++) {
    const shifted = (bytes: Uint8Array) => {
      const padded = new Uint8Array(bytes.length + offset);
      padded.set(bytes, offset);
      return padded.subarray(offset);
    };
    const moved = {
      ...tensor,
      bytes: shifted(tensor.bytes),
      ...(tensor.scales !== undefined && { scales: shifted(tensor.scales) }),
    };
    const target = new Float32Array(8).fill(9);
    const result = fromWireF32(moved, [2, 3], target.subarray(1, 7));
    expect([...target]).toEqual([9, ...result, 9]);
    for (const [i, value] of result.entries()) expect(value).toBeCloseTo(data[i] as number, 5);
    expect([...fromWireF32(moved, [2, 3])]).toEqual([...result]);
  }
});

describe("f16", () => {
  it("rounds to nearest, ties to even, for every half, its neighbours and the middles between", () => {
    const values: number[] = [];
    for (let exponent = -26; exponent <= 16; exponent++) {
      for (let k = 0; k < 64; k++) {
        const mantissa = [0, 1, 2, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fffff][k % 10] as number;
        values.push(2 ** exponent * (1 + ((mantissa + (k << 17)) % 2 ** 23) / 2 ** 23));
      }
    }
    values.push(
      0,
      -0,
      65_504,
      65_519.99,
      65_520,
      2 ** -25,
      2 ** -25 * 1.0001,
      2 ** -24 * 1.5,
      1e-45,
      Infinity,
      Number.NaN,
    );
    const data = Float32Array.from([...values, ...values.map((value) => -value)]);
    const result = fromWireF32(sent(toWireF32(data, [data.length], "f16")), [data.length]);
    const wrong = [...data.entries()].filter(([i, value]) => !Object.is(result[i], nearestHalf(value)));
    expect(wrong.map(([i, value]) => [value, result[i], nearestHalf(value)])).toEqual([]);
  });

  it("keeps each of the 65,536 halves", () => {
    const bytes = new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, i) => i).buffer);
    const values = fromWireF32({ dtype: "f16", shape: [65_536], bytes }, [65_536]);
    const again = new Uint16Array(Uint8Array.from(toWireF32(values, [65_536], "f16").bytes).buffer);
    const wrong = [...again.keys()].filter((half) => {
      const isNaN = (half & 0x7c00) === 0x7c00 && (half & 0x3ff) !== 0;
      return isNaN ? !Number.isNaN(values[half]) : again[half] !== half;
    });
    expect(wrong).toEqual([]);
  });
});

describe("int8-row", () => {
  it("is off by half a step at most, row by row", () => {
    const random = new TestRandom(1);
    const data = Float32Array.from({ length: 40 * 33 }, (_, i) => random.normal() * 10 ** (Math.floor(i / 33) / 4 - 5));
    const result = fromWireF32(sent(toWireF32(data, [40, 33], "int8-row")), [40, 33]);
    for (let row = 0; row < 40; row++) {
      const most = Math.max(...data.subarray(row * 33, row * 33 + 33).map(Math.abs));
      for (let i = row * 33; i < row * 33 + 33; i++) {
        expect(Math.abs((result[i] as number) - (data[i] as number))).toBeLessThanOrEqual((most / 254) * 1.0001);
      }
    }
  });

  it("keeps a row of zeros, and numbers so small that their scale is none", () => {
    const data = Float32Array.of(0, 0, 1e-45, -1e-45);
    expect([...fromWireF32(sent(toWireF32(data, [2, 2], "int8-row")), [2, 2])].map(Math.abs)).toEqual([0, 0, 0, 0]);
  });

  it("never turns a row with a NaN or an infinity into plausible numbers", () => {
    for (const poison of [Number.NaN, Infinity, -Infinity]) {
      const data = Float32Array.of(1, 2, poison, 4, 5, 6);
      const result = fromWireF32(sent(toWireF32(data, [2, 3], "int8-row")), [2, 3]);
      expect([...result.subarray(0, 3)]).toEqual([Number.NaN, Number.NaN, Number.NaN]);
      expect(result[5]).toBe(6);
    }
  });

  it("takes a row's largest f32 values", () => {
    const most = 3.4028234663852886e38;
    const result = fromWireF32(sent(toWireF32(Float32Array.of(most, -most), [2], "int8-row")), [2]);
    expect((result[0] as number) / most).toBeCloseTo(1, 4);
    expect(result[1]).toBe(-(result[0] as number));
  });
});

it("i32 goes both ways", () => {
  const data = Int32Array.of(0, -1, 2 ** 31 - 1, -(2 ** 31));
  expect(fromWireI32(sent(toWireI32(data, [2, 2])), [2, 2])).toEqual(data);
  expect(fromWireI32(sent(toWireI32(new Int32Array(), [0, 0])), [0, 0])).toEqual(new Int32Array());
});

it.each(DTYPES)("%s may be empty", (dtype) => {
  for (const shape of [[0, 0], [0, 5], [5, 0], [0]]) {
    expect(fromWireF32(sent(toWireF32(new Float32Array(), shape, dtype)), shape)).toEqual(new Float32Array());
  }
});

describe("what contradicts itself is refused", () => {
  const bytes = new Uint8Array(24);
  const good = { dtype: "f32", shape: [2, 3], bytes };
  it.each([
    ["nothing", undefined, "hidden"],
    ["a list", [1], "hidden"],
    ["bytes", bytes, "hidden"],
    ["an unknown dtype", { ...good, dtype: "f8" }, "hidden.dtype"],
    ["a dtype that is no text", { ...good, dtype: { toString: "f32" } }, "hidden.dtype"],
    ["no shape", { ...good, shape: undefined }, "hidden.shape"],
    ["a negative size", { ...good, shape: [-2, -3] }, "hidden.shape"],
    ["a broken size", { ...good, shape: [1.5, 4] }, "hidden.shape"],
    ["a size that is text", { ...good, shape: ["2", 3] }, "hidden.shape"],
    ["five dimensions", { ...good, shape: [1, 1, 1, 2, 3] }, "hidden.shape"],
    ["a huge size", { ...good, shape: [2 ** 31, 0] }, "hidden.shape"],
    ["no bytes", { ...good, bytes: undefined }, "hidden.bytes"],
    ["text for bytes", { ...good, bytes: "x".repeat(24) }, "hidden.bytes"],
    ["too few bytes", { ...good, bytes: bytes.subarray(1) }, "hidden.bytes"],
    ["too many bytes", { ...good, shape: [2, 2] }, "hidden.bytes"],
    [
      "sizes whose product overflows",
      { ...good, shape: [2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1] },
      "hidden.bytes",
    ],
    ["scales without int8", { ...good, scales: bytes }, "hidden.scales"],
    ["int8 without scales", { ...good, dtype: "int8-row", shape: [4, 6] }, "hidden.scales"],
    ["too few scales", { ...good, dtype: "int8-row", shape: [4, 6], scales: new Uint8Array(12) }, "hidden.scales"],
  ])("%s", (_, value, field) => {
    const error = refusal(() => checkWireTensor(value, "hidden"));
    expect(error.code).toBe("bad-message");
    expect(Object.keys(error.fields)).toEqual(["field", "found", "expected"]);
    expect(error.fields["field"]).toBe(field);
  });

  it("another shape or dtype than asked for", () => {
    const floats = toWireF32(new Float32Array(6), [2, 3], "f32");
    expect(refusal(() => fromWireF32(floats, [3, 2])).fields).toEqual({
      field: "shape",
      found: "[2, 3]",
      expected: "[3, 2]",
    });
    expect(refusal(() => fromWireF32(floats, [6])).code).toBe("bad-message");
    expect(refusal(() => fromWireI32(floats, [2, 3])).fields["field"]).toBe("dtype");
    expect(refusal(() => fromWireF32(toWireI32(new Int32Array(6), [2, 3]), [2, 3])).fields["field"]).toBe("dtype");
  });
});
