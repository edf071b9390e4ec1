import { Packr, Unpackr } from "msgpackr";
import { RallyError } from "./errors.ts";
import { scanMsgpack } from "./msgpack-scan.ts";

const packr = new Packr({ useRecords: false, useToJSON: false });
const options = { useRecords: false, mapsAsObjects: true, int64AsType: "auto" } as const;
// "auto" (a number when it is safe, else a bigint) is missing from msgpackr's own types.
const unpackr = new Unpackr(options as object);

/** msgpackr moves to a buffer of its own choice when fewer than ten bytes are left. */
const PACKR_SLACK = 16;
const SCRATCH_BYTES = 8192;
const scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);

/**
 * Plain maps, lists, text, numbers, booleans and Uint8Arrays as msgpack. Properties that are undefined are left out and lone
 * surrogates become U+FFFD; anything else that msgpack would corrupt (bare typed arrays, dates, class instances) is refused.
 * The result is the caller's own; the bytes of each Uint8Array were copied once.
 */
export function encode(value: unknown): Uint8Array {
  const { plain, size } = measured(value);
  if (size + PACKR_SLACK <= SCRATCH_BYTES) {
    packr.useBuffer(scratch);
    // A copy out of Node's pool: cheaper than a buffer per small message.
    return Buffer.from(packr.pack(plain));
  }
  packr.useBuffer(Buffer.allocUnsafeSlow(size + PACKR_SLACK));
  return packr.pack(plain);
}

function measured(value: unknown): { readonly plain: unknown; readonly size: number } {
  const size = sizeOf(value, "message", 0);
  if (!Number.isNaN(size)) return { plain: value, size };
  const plain = tidy(value);
  return { plain, size: sizeOf(plain, "message", 0) };
}

/**
 * RallyError `bad-message` for anything that is not one plain msgpack value. Uint8Arrays in the result are views of `bytes`.
 * With `badText` "replace", text that is not UTF-8 becomes question marks instead of an error.
 */
export function decode(bytes: Uint8Array, badText: "refuse" | "replace" = "refuse"): unknown {
  let source = bytes;
  if (badText === "refuse") scanMsgpack(bytes);
  else if (scanMsgpack(bytes, "report").length > 0) {
    source = Uint8Array.from(bytes);
    for (const part of scanMsgpack(source, "report")) part.fill(0x3f);
  }
  try {
    return unpackr.unpack(source);
  } catch (error) {
    throw new RallyError("bad-message", `not msgpack: ${RallyError.from(error).message}`, {}, { cause: error });
  }
}

/** An upper bound of the encoded bytes; NaN if the value must be tidied first. */
function sizeOf(value: unknown, field: string, depth: number): number {
  switch (typeof value) {
    case "number":
    case "bigint":
      return 9;
    case "boolean":
      return 1;
    case "string":
      return value.isWellFormed() ? 5 + 3 * value.length : Number.NaN;
    case "undefined":
      return Number.NaN;
    case "object":
      break;
    default:
      throw refuse(field, typeof value);
  }
  if (value === null) return 1;
  if (value instanceof Uint8Array) return 5 + value.length;
  if (depth > 32) throw new RallyError("bad-message", `${field} is nested too deep`, { field, limit: 32 });
  let size = 5;
  if (Array.isArray(value)) {
    for (const item of value) size += sizeOf(item, field, depth + 1);
    return size;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) throw refuse(field, value.constructor.name);
  for (const key in value) {
    size += sizeOf(key, field, depth) + sizeOf((value as Record<string, unknown>)[key], key, depth + 1);
  }
  return size;
}

/** A copy without undefined properties and lone surrogates. */
function tidy(value: unknown): unknown {
  if (typeof value === "string") return value.toWellFormed();
  if (value === undefined) return null;
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(tidy);
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key.toWellFormed(), tidy(item)]),
  );
}

function refuse(field: string, found: string): RallyError {
  return new RallyError("bad-message", `${field} is a ${found}, which msgpack cannot carry`, {
    field,
    found,
    expected: "plain values and Uint8Array",
  });
}
