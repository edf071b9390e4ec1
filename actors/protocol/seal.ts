import { crc32 } from "node:zlib";
import { RallyError } from "../../infra/errors.ts";

/**
 * Activations and their answers end with `check`, the CRC-32 of every byte before its own four: TCP's own checksum lets one broken
 * segment in 65,536 pass. Shared memory needs none, and a pass over megabytes costs.
 */
export const CHECK_KEY = "check";
/** Stands for a checksum until `seal` writes it: as msgpack it has the four bytes that are needed. */
export const UNSEALED = 2 ** 32 - 1;
const CHECK_BYTES = 4;

/** Writes `check` into a message that was encoded with `UNSEALED` as its last entry. */
export function seal(message: Uint8Array): void {
  checkView(message).setUint32(0, crc32(sealed(message)));
}

/** RallyError `corrupted` unless the message, of four bytes at least, is what was sealed. */
export function checkSeal(what: string, message: Uint8Array): void {
  const found = checkView(message).getUint32(0);
  const expected = crc32(sealed(message));
  if (found === expected) return;
  throw new RallyError("corrupted", `${what} was changed on its way: its checksum does not fit`, {
    found,
    expected,
    retryAfterMs: 1,
  });
}

function sealed(message: Uint8Array): Uint8Array {
  return message.subarray(0, message.length - CHECK_BYTES);
}

function checkView({ buffer, byteOffset, length }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset + length - CHECK_BYTES, CHECK_BYTES);
}
