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
  for (let i = 0; i < down; i++) {
    for (let row = 0; row < TILE; row++) starts[row] = rowOf(i * TILE + row);
    for (let j = 0; j < across; j++) {
      const tile = i * across + j;
      const largest = largestOf(matrix, starts, k, j * TILE);
      const scale = largest > 0 ? Math.fround(largest / LARGEST_E4M3) : 1;
      scales[tile] = scale;
      for (let row = 0; row < TILE; row++) {
        const from = (starts[row] as number) * k + j * TILE;
        const to = tile * TILE * TILE + row * TILE;
        for (let column = 0; column < TILE; column++) {
          // 16-byte chunk c of a row lies at c ^ (row % 8).
          const at = (((column >> 4) ^ (row & 7)) << 4) | (column & 15);
          tiles[to + at] = toE4m3((matrix[from + column] as number) / scale);
        }
      }
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

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

/** Nearest e4m3, ties to even; beyond 448 it is 448. NaN is not expected. */
export function toE4m3(value: number): number {
  word[0] = Math.abs(value);
  const magnitude = bits[0] as number;
  const sign = value < 0 ? 0x80 : 0;
  // Below 2^-6 e4m3 has steps of 2^-9, as f32 has beyond 2^14: adding that rounds.
  if (magnitude < 0x3c80_0000) {
    word[0] = word[0] + 16384;
    return sign | ((bits[0] as number) - 0x4680_0000);
  }
  const rounded = magnitude + 0x7_ffff + ((magnitude >>> 20) & 1);
  return sign | Math.min(0x7e, (rounded >>> 20) - (120 << 3));
}

/** bf16 of f32, nearest, ties to even, as their bits. */
export function toBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (each) => (each + 0x7fff + ((each >>> 16) & 1)) >>> 16);
}
