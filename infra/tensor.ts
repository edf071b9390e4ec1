import { assert, RallyError } from "./errors.ts";
import { f16ToF32, f32ToF16 } from "./half.ts";

/** `int8-row`: one f32 scale per row in `scales`; a row is a run of the last dimension. */
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

const ELEMENT_BYTES: Readonly<Record<WireDtype, number>> = { f32: 4, f16: 2, "int8-row": 1, i32: 4 };
const MAX_DIMS = 4;
const MAX_DIM = 2 ** 31 - 1;
/** Adding and taking away 1.5 × 2^52 rounds a small double to the nearest integer, ties to even. */
const ROUND = 1.5 * 2 ** 52;
/** Just below the largest f32, so that 127 times a scale that was rounded up is still finite. */
const MOST_QUANTIZED = 3.4028e38;

assert(new Uint8Array(Uint32Array.of(1).buffer)[0] === 1, "this machine is little-endian, as the wire is");

/** For f32 the bytes are a view of `data`, which must stay as it is until the message is encoded. */
export function toWireF32(data: Float32Array, shape: readonly number[], dtype: Exclude<WireDtype, "i32">): WireTensor {
  assert(data.length === product(shape), `${data.length} values fill shape [${shape.join(", ")}]`);
  if (dtype === "f32") return { dtype, shape, bytes: bytesOf(data) };
  if (dtype === "f16") return { dtype, shape, bytes: bytesOf(f32ToF16(data)) };
  return { dtype, shape, ...quantize(data, numRows(shape)) };
}

/** The bytes are a view of `data`, which must stay as it is until the message is encoded. */
export function toWireI32(data: Int32Array, shape: readonly number[]): WireTensor {
  assert(data.length === product(shape), `${data.length} values fill shape [${shape.join(", ")}]`);
  return { dtype: "i32", shape, bytes: bytesOf(data) };
}

/** One aligned copy, into `target` if given. `bad-message` if the tensor has another shape or holds no floats. */
export function fromWireF32(tensor: WireTensor, shape: readonly number[], target?: Float32Array): Float32Array {
  if (tensor.dtype === "i32") throw refuse("dtype", tensor.dtype, "f32, f16 or int8-row");
  checkShape(tensor, shape);
  const length = product(shape);
  assert(target === undefined || target.length === length, `target takes ${length} values`);
  const result = target ?? new Float32Array(length);
  if (tensor.dtype === "f32") bytesOf(result).set(tensor.bytes);
  else if (tensor.dtype === "f16") f16ToF32(tensor.bytes, result);
  else dequantize(tensor, result, numRows(shape));
  return result;
}

/** One aligned copy. `bad-message` if the tensor has another shape or dtype. */
export function fromWireI32(tensor: WireTensor, shape: readonly number[]): Int32Array {
  if (tensor.dtype !== "i32") throw refuse("dtype", tensor.dtype, "i32");
  checkShape(tensor, shape);
  const result = new Int32Array(product(shape));
  bytesOf(result).set(tensor.bytes);
  return result;
}

/** Checks what arrived under the name `field`: afterwards dtype, shape, byte counts and scales agree with each other. */
export function checkWireTensor(value: unknown, field: string): WireTensor {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
    throw refuse(field, nameOf(value), "a tensor {dtype, shape, bytes}");
  }
  const { dtype: rawDtype, shape, bytes, scales } = value as Readonly<Record<string, unknown>>;
  const dtype = WIRE_DTYPES.find((known) => known === rawDtype);
  if (dtype === undefined) throw refuse(`${field}.dtype`, nameOf(rawDtype), WIRE_DTYPES.join(", "));
  if (!isShape(shape)) {
    throw refuse(`${field}.shape`, nameOf(shape), `at most ${MAX_DIMS} integers from 0 to ${MAX_DIM}`);
  }
  const numBytes = product(shape) * ELEMENT_BYTES[dtype];
  if (!(bytes instanceof Uint8Array) || bytes.length !== numBytes) {
    throw refuse(`${field}.bytes`, nameOf(bytes), `${numBytes} bytes for ${dtype} [${shape.join(", ")}]`);
  }
  if (dtype !== "int8-row") {
    if (scales !== undefined && scales !== null) throw refuse(`${field}.scales`, nameOf(scales), `none for ${dtype}`);
    return { dtype, shape, bytes };
  }
  const numScaleBytes = numRows(shape) * 4;
  if (!(scales instanceof Uint8Array) || scales.length !== numScaleBytes) {
    throw refuse(`${field}.scales`, nameOf(scales), `${numScaleBytes} bytes, an f32 per row`);
  }
  return { dtype, shape, bytes, scales };
}

/**
 * Symmetric: q = x / scale rounded to nearest, scale = max|x| / 127. A row with a NaN or an infinity has no such scale; it
 * travels with scale NaN and so arrives as NaN throughout, never as plausible numbers.
 */
function quantize(data: Float32Array, rows: number): { bytes: Uint8Array; scales: Uint8Array } {
  const quantized = new Int8Array(data.length);
  const scales = new Float32Array(rows);
  const width = rows === 0 ? 0 : data.length / rows;
  for (let row = 0; row < rows; row++) {
    const [from, to] = [row * width, (row + 1) * width];
    let most = 0;
    let sum = 0;
    for (let i = from; i < to; i++) {
      const size = Math.abs(data[i] as number);
      sum += size;
      if (size > most) most = size;
    }
    const scale = Number.isFinite(sum) ? Math.fround(Math.min(most, MOST_QUANTIZED) / 127) : Number.NaN;
    scales[row] = scale;
    if (!(scale > 0)) continue;
    for (let i = from; i < to; i++) {
      const rounded = (data[i] as number) / scale + ROUND - ROUND;
      quantized[i] = rounded > 127 ? 127 : rounded < -127 ? -127 : rounded;
    }
  }
  return { bytes: bytesOf(quantized), scales: bytesOf(scales) };
}

function dequantize(tensor: WireTensor, target: Float32Array, rows: number): void {
  const { bytes, scales: scaleBytes } = tensor;
  assert(scaleBytes !== undefined, "an int8-row tensor has scales");
  const scales = new Float32Array(rows);
  bytesOf(scales).set(scaleBytes);
  const quantized = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const width = rows === 0 ? 0 : target.length / rows;
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] as number;
    for (let i = row * width; i < (row + 1) * width; i++) target[i] = (quantized[i] as number) * scale;
  }
}

function checkShape(tensor: WireTensor, shape: readonly number[]): void {
  if (tensor.shape.length === shape.length && tensor.shape.every((size, i) => size === shape[i])) return;
  throw refuse("shape", `[${tensor.shape.join(", ")}]`, `[${shape.join(", ")}]`);
}

function isShape(value: unknown): value is readonly number[] {
  return (
    Array.isArray(value) &&
    value.length <= MAX_DIMS &&
    value.every((size) => Number.isInteger(size) && size >= 0 && size <= MAX_DIM)
  );
}

function product(shape: readonly number[]): number {
  return shape.reduce((size, dim) => size * dim, 1);
}

function numRows(shape: readonly number[]): number {
  return product(shape.slice(0, -1));
}

function bytesOf(data: Float32Array | Uint16Array | Int8Array | Int32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function nameOf(value: unknown): string {
  if (value === undefined || value === null) return "nothing";
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (Array.isArray(value))
    return value.length <= 8 ? `[${value.map(nameOf).join(", ")}]` : `a list of ${value.length}`;
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  return typeof value === "number" || typeof value === "boolean" || typeof value === "bigint" ? String(value) : "a map";
}

function refuse(field: string, found: string, expected: string): RallyError {
  return new RallyError("bad-message", `${field} is ${found}, expected ${expected}`, { field, found, expected });
}
