import { assert } from "../../infra/errors.ts";

/** Weights are quantised in squares of this size, each with a scale. */
const TILE = 128;
const LARGEST_E4M3 = 448;

export interface QuantisedWeights {
  /** e4m3 [n / 128, k / 128, 128, 128]: each square as the kernels want it in shared memory, see `Weights` in kernels.h. */
  readonly tiles: Uint8Array;
  /** [n / 128, k / 128] */
  readonly scales: Float32Array;
}

/** A matrix [n, k] in FP8; n and k are multiples of 128. `rowOf` says which row of the matrix is row i of the result. */
export function quantiseWeights(
  matrix: Float32Array,
  n: number,
  k: number,
  rowOf: (row: number) => number = (row) => row,
): QuantisedWeights {
  assert(n % TILE === 0 && k % TILE === 0, `weights [${n}, ${k}] are whole squares of ${TILE}`);
  const [down, across] = [n / TILE, k / TILE];
  const tiles = new Uint8Array(n * k);
  const scales = new Float32Array(down * across);
  const starts = new Int32Array(TILE);
  const square = new Float32Array(TILE * TILE);
  for (let i = 0; i < down; i++) {
    for (let row = 0; row < TILE; row++) starts[row] = rowOf(i * TILE + row);
    for (let j = 0; j < across; j++) {
      const tile = i * across + j;
      const largest = largestOf(matrix, starts, k, j * TILE);
      const scale = largest > 0 ? Math.fround(largest / LARGEST_E4M3) : 1;
      scales[tile] = scale;
      for (let row = 0; row < TILE; row++) {
        const from = (starts[row] as number) * k + j * TILE;
        for (let column = 0; column < TILE; column++) {
          // 16-byte chunk c of a row lies at c ^ (row % 8).
          const at = (row << 7) | (((column >> 4) ^ (row & 7)) << 4) | (column & 15);
          square[at] = (matrix[from + column] as number) / scale;
        }
      }
      narrow(square, tiles.subarray(tile * square.length, (tile + 1) * square.length));
    }
  }
  return { tiles, scales };
}

function largestOf(matrix: Float32Array, rows: Int32Array, k: number, column: number): number {
  let largest = 0;
  for (const row of rows) {
    for (let at = row * k + column, end = at + TILE; at < end; at++) {
      largest = Math.max(largest, Math.abs(matrix[at] as number));
    }
  }
  return largest;
}

/**
 * The nearest e4m3 of each value, ties to even; beyond 448 it is 448. NaN is not expected. `values` is spoilt: looking at the bits of
 * all of them at once is several times as fast.
 */
export function narrow(values: Float32Array, to: Uint8Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < values.length; i++) {
    const word = bits[i] as number;
    const magnitude = word & 0x7fff_ffff;
    const rounded = magnitude + 0x7_ffff + ((magnitude >>> 20) & 1);
    const code = magnitude < SMALLEST_NORMAL ? smallCode(magnitude) : Math.min(0x7e, (rounded >>> 20) - (120 << 3));
    to[i] = ((word >>> 24) & 0x80) | code;
  }
}

/** The bits of 2^-6. */
const SMALLEST_NORMAL = 0x3c80_0000;

/** Below 2^-6 e4m3 has steps of 2^-9. `magnitude`: the bits of a positive f32. */
function smallCode(magnitude: number): number {
  const exponent = magnitude >>> 23;
  // Below 2^-10 nothing rounds up; f32's bias is 127.
  if (exponent < 117) return 0;
  const significand = (magnitude & 0x7f_ffff) | 0x80_0000;
  const shift = 141 - exponent;
  return (significand + (1 << (shift - 1)) - 1 + ((significand >>> shift) & 1)) >>> shift;
}

/** bf16 of f32, nearest, ties to even, as their bits. */
export function toBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (each) => (each + 0x7fff + ((each >>> 16) & 1)) >>> 16);
}
