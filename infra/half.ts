/** IEEE half precision. Node 20 has no Float16Array, so both directions go through tables. */

/** Per sign and exponent of an f32 (its upper nine bits): what the half starts from, and how the mantissa joins it. */
const BASE = new Uint16Array(512);
const SHIFT = new Uint8Array(512);
const HIDDEN = new Uint32Array(512);

for (let i = 0; i < 512; i++) {
  const sign = i < 256 ? 0 : 0x8000;
  const exponent = (i & 0xff) - 127;
  const isSubnormal = exponent >= -25 && exponent < -14;
  BASE[i] = sign + (exponent > 15 ? 0x7c00 : exponent >= -14 ? (exponent + 15) << 10 : 0);
  SHIFT[i] = exponent > 15 ? 24 : exponent >= -14 ? 13 : isSubnormal ? -1 - exponent : 24;
  HIDDEN[i] = isSubnormal ? 0x800000 : 0;
}

/** Value of each of the 65,536 halves. */
const VALUES = Float32Array.from({ length: 65_536 }, (_, half) => {
  const sign = half < 0x8000 ? 1 : -1;
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : Number.NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1024 + mantissa) * 2 ** (exponent - 25);
});

/** Rounds to nearest, ties to even; beyond the largest half is infinity; every NaN is the same quiet one. */
export function f32ToF16(data: Float32Array): Uint16Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const halves = new Uint16Array(data.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i] as number;
    if ((word & 0x7fffffff) > 0x7f800000) {
      halves[i] = 0x7e00 | ((word >>> 16) & 0x8000);
      continue;
    }
    const index = word >>> 23;
    const shift = SHIFT[index] as number;
    const mantissa = (word & 0x7fffff) | (HIDDEN[index] as number);
    const half = (BASE[index] as number) + (mantissa >>> shift);
    const rest = mantissa & ((1 << shift) - 1);
    const middle = 1 << (shift - 1);
    // A carry out of the mantissa lands in the exponent, which is just where it belongs.
    halves[i] = rest > middle || (rest === middle && (half & 1) === 1) ? half + 1 : half;
  }
  return halves;
}

/** Little-endian halves at any alignment. */
export function f16ToF32(bytes: Uint8Array, target: Float32Array): void {
  for (let i = 0; i < target.length; i++) {
    target[i] = VALUES[(bytes[2 * i] as number) | ((bytes[2 * i + 1] as number) << 8)] as number;
  }
}
