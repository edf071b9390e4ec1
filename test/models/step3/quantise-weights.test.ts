import { expect, it } from "vitest";
import { dequantize } from "../../../models/dequantize.ts";
import { narrow, quantiseWeights, toBf16 } from "../../../models/step3/quantise-weights.ts";

function fromE4m3(bytes: Uint8Array): Float32Array {
  const values = new Float32Array(bytes.length);
  dequantize("F8_E4M3", bytes, values);
  return values;
}

function toE4m3(value: number): number {
  const code = new Uint8Array(1);
  narrow(Float32Array.of(value), code);
  return code[0] as number;
}

it("e4m3: every value is itself, what lies between goes to the nearer, ties to even", () => {
  const codes = Uint8Array.from({ length: 127 }, (_, code) => code);
  const values = fromE4m3(codes);
  for (const [code, value] of values.entries()) {
    expect(toE4m3(value)).toBe(code);
    expect(toE4m3(-value)).toBe(code + 128);
    const next = values[code + 1];
    if (next === undefined) continue;
    const middle = (value + next) / 2;
    expect(toE4m3(middle)).toBe(code % 2 === 0 ? code : code + 1);
    expect(toE4m3(middle + (next - value) / 64)).toBe(code + 1);
    expect(toE4m3(middle - (next - value) / 64)).toBe(code);
  }
  expect(toE4m3(448.0001)).toBe(126);
});

it("a matrix is cut into squares with a scale each, as the kernels swizzle them", () => {
  const [n, k] = [256, 384];
  const matrix = Float32Array.from({ length: n * k }, (_, i) => Math.sin(i * 0.7) * (1 + (i % 5)));
  const rowOf = (row: number) => n - 1 - row;
  const { tiles, scales } = quantiseWeights(matrix, n, k, rowOf);
  const values = fromE4m3(tiles);
  for (let row = 0; row < n; row += 37) {
    for (let column = 0; column < k; column += 11) {
      const tile = Math.floor(row / 128) * 3 + Math.floor(column / 128);
      const [r, c] = [row % 128, column % 128];
      const at = tile * 16384 + r * 128 + ((Math.floor(c / 16) ^ (r % 8)) << 4) + (c % 16);
      const found = (values[at] as number) * (scales[tile] as number);
      const expected = matrix[rowOf(row) * k + column] as number;
      expect(Math.abs(found - expected)).toBeLessThanOrEqual(Math.abs(expected) / 16 + (scales[tile] as number) / 1024);
    }
  }
  expect(quantiseWeights(new Float32Array(128 * 128), 128, 128).scales).toEqual(Float32Array.of(1));
});

it("bf16 is the nearest, ties to even", () => {
  expect([...toBf16(Float32Array.of(1, -2.5, 1 + 1 / 256, 1 + 3 / 256))]).toEqual([0x3f80, 0xc020, 0x3f80, 0x3f82]);
});
