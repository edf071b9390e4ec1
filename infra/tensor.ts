import { RallyError } from "./errors.ts";

/** `int8-row`: one f32 scale per row in `scales`. */
export const WIRE_DTYPES = ["f32", "f16", "int8-row", "i32"] as const;
export type WireDtype = (typeof WIRE_DTYPES)[number];

/** A tensor as it travels: raw little-endian bytes, row-major. A bare typed array would be corrupted by msgpack. */
export interface WireTensor {
  readonly dtype: WireDtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
  /** f32 bytes, one per row; `int8-row` only. */
  readonly scales?: Uint8Array;
}
void RallyError;
