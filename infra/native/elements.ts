import type { Bytes } from "./addon.ts";

/** Element types by their numbers in ONNX. The narrow floats have no array of their own in JavaScript: their bytes do. */
export const ELEMENTS = {
  f32: { number: 1, array: Float32Array },
  u8: { number: 2, array: Uint8Array },
  i8: { number: 3, array: Int8Array },
  i32: { number: 6, array: Int32Array },
  i64: { number: 7, array: BigInt64Array },
  f16: { number: 10, array: Uint16Array },
  bf16: { number: 16, array: Uint16Array },
  "fp8-e4m3": { number: 17, array: Uint8Array },
} as const;

export type ElementType = keyof typeof ELEMENTS;

/** The element type of an array that a Session takes. */
export function elementNumber(data: Bytes): number {
  if (data instanceof Float32Array) return ELEMENTS.f32.number;
  return data instanceof Int32Array ? ELEMENTS.i32.number : ELEMENTS.i64.number;
}
