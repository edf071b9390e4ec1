/** Measured on the card. */
export interface Rates {
  readonly copyBytesPerSecond: number;
  readonly fp8FlopsPerSecond: number | undefined;
}

/** What no kernel can beat by much, in microseconds: the longer of moving the bytes and computing. */
export function floorUs(part: { readonly bytes: number; readonly flops: number }, rates: Rates): number {
  const compute = rates.fp8FlopsPerSecond === undefined ? 0 : part.flops / rates.fp8FlopsPerSecond;
  return 1e6 * Math.max(part.bytes / rates.copyBytesPerSecond, compute);
}
