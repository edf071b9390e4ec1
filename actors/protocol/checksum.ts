import { crc32 } from "node:zlib";
import { RallyError } from "../../infra/errors.ts";
import type { WireTensor } from "../../infra/tensor.ts";
import type { ActivationBatch, ExpertResult } from "./messages.ts";

type Batch = Omit<ActivationBatch, "check">;
type Result = Omit<ExpertResult & { readonly kind: "result" }, "check">;

/** Six f64, little-endian as the wire is. */
const numbers = new Float64Array(6);
const numberBytes = new Uint8Array(numbers.buffer);

/** CRC-32 of what decides where a batch belongs and what it says; TCP's own checksum lets one broken segment in 65,536 pass. */
export function batchCheck({ epoch, passId, microBatch, layer, part, attempt, ...tensors }: Batch): number {
  const { hidden, expertIds, expertWeights } = tensors;
  return check([epoch, passId, microBatch, layer, part, attempt], hidden, expertIds, expertWeights);
}

export function resultCheck({ passId, microBatch, layer, part, attempt, shard, output }: Result): number {
  return check([passId, microBatch, layer, part, attempt, shard], output);
}

/** RallyError `corrupted` unless the checksum that came is that of what came. */
export function checkIntact(what: string, found: number, expected: number): void {
  if (found === expected) return;
  throw new RallyError("corrupted", `${what} was changed on its way: its checksum does not fit`, {
    found,
    expected,
    retryAfterMs: 1,
  });
}

function check(position: readonly number[], ...tensors: readonly WireTensor[]): number {
  numbers.set(position);
  let sum = crc32(numberBytes);
  for (const { bytes, scales } of tensors) {
    // Of no bytes at no address, zlib forgets the sum so far.
    if (bytes.length > 0) sum = crc32(bytes, sum);
    if (scales !== undefined && scales.length > 0) sum = crc32(scales, sum);
  }
  return sum;
}
