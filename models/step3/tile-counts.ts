import type { PassRequest } from "../stages.ts";
import { DEVICE_ROWS, PAGE_TOKENS } from "./device-graphs.ts";

/**
 * How many of a pass's rows, in their order, go into each tile. Where the first token of a page wipes the page, no other token of that
 * page goes with it.
 */
export function tileCounts(
  { numSequences, chunk, pasts }: Pick<PassRequest, "numSequences" | "chunk" | "pasts">,
  wipesPages: boolean,
): number[] {
  const counts = [0];
  for (let token = 0; token < numSequences * chunk; token++) {
    const position = (pasts[Math.floor(token / chunk)] ?? 0) + (token % chunk);
    const isAfterWipe = wipesPages && token % chunk > 0 && position % PAGE_TOKENS === 1;
    if (counts.at(-1) === DEVICE_ROWS || isAfterWipe) counts.push(0);
    counts[counts.length - 1] = (counts.at(-1) ?? 0) + 1;
  }
  return counts;
}
