/** Storage types of a checkpoint's tensors and their sizes in bytes. */
export const STORAGE_BYTES = { F32: 4, F16: 2, BF16: 2, F8_E4M3: 1 } as const;
export type StorageType = keyof typeof STORAGE_BYTES;

export function isStorageType(name: string): name is StorageType {
  return Object.hasOwn(STORAGE_BYTES, name);
}

/** A matrix's scales, one per block of `blockRows × blockColumns` weights; blocks at the edges may be partial. */
export interface BlockScales {
  readonly blockRows: number;
  readonly blockColumns: number;
  /** [ceil(rows / blockRows), ceil(columns / blockColumns)] */
  readonly scales: Float32Array;
}

/** Little-endian `bytes` of `type` to f32; `target` has one element per value. */
export function dequantize(type: StorageType, bytes: Uint8Array, target: Float32Array): void {
  switch (type) {
    case "F32":
      new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(bytes);
      return;
    case "BF16": {
      const halves = asUint16(bytes);
      const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
      for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] as number) << 16;
      return;
    }
    case "F16": {
      const halves = asUint16(bytes);
      const table = f16Table();
      for (let i = 0; i < halves.length; i++) target[i] = table[halves[i] as number] as number;
      return;
    }
    case "F8_E4M3":
      for (let i = 0; i < bytes.length; i++) target[i] = F8_E4M3[bytes[i] as number] as number;
  }
}

/** Multiplies a matrix of `columns` columns by its block scales, in place. [rows, columns] */
export function applyBlockScales(matrix: Float32Array, columns: number, blocks: BlockScales): void {
  const { blockRows, blockColumns, scales } = blocks;
  const scaleColumns = Math.ceil(columns / blockColumns);
  for (let at = 0, row = 0; at < matrix.length; row++) {
    let scale = Math.floor(row / blockRows) * scaleColumns;
    for (let column = 0; column < columns; column += blockColumns) {
      const factor = scales[scale++] as number;
      const end = at + Math.min(blockColumns, columns - column);
      for (; at < end; at++) matrix[at] = (matrix[at] as number) * factor;
    }
  }
}

/** Value of each e4m3 byte: no infinities, one NaN per sign (0x7f, 0xff). [256] */
const F8_E4M3 = Float32Array.from({ length: 256 }, (_, byte) => {
  const sign = byte < 128 ? 1 : -1;
  const [exponent, mantissa] = [(byte >> 3) & 15, byte & 7];
  if (exponent === 15 && mantissa === 7) return Number.NaN;
  return sign * (exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10));
});

let f16Values: Float32Array | undefined;

/** Value of each half-precision bit pattern, made when first needed. [65536] */
function f16Table(): Float32Array {
  f16Values ??= Float32Array.from({ length: 65_536 }, (_, half) => {
    const sign = half < 32_768 ? 1 : -1;
    const [exponent, mantissa] = [(half >> 10) & 31, half & 1023];
    if (exponent === 31) return mantissa === 0 ? sign * Infinity : Number.NaN;
    return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
  });
  return f16Values;
}

function asUint16(bytes: Uint8Array): Uint16Array {
  // A view needs an even offset; tensors in a file may start anywhere.
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2);
}
