import { assert } from "../../infra/errors.ts";
import type { MergeTable } from "./merge-table.ts";
import { MinHeap } from "./min-heap.ts";

/** Ranks are ordered before positions within one double: rank × 2^27 + position stays below 2^53. */
const POSITIONS = 2 ** 27;

/**
 * Byte-pair merges of one piece: always the lowest-ranked pair, the leftmost of equals. Symbols are a linked list and the
 * candidates a heap, so the time is n log n whatever the piece looks like.
 */
export function mergePairs(symbols: Int32Array, table: MergeTable): Int32Array {
  const length = symbols.length;
  if (length < 2) return symbols;
  assert(length < POSITIONS, `a piece of ${length} bytes fits the heap's keys`);
  const next = new Int32Array(length);
  const previous = new Int32Array(length);
  for (let i = 0; i < length; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  const heap = new MinHeap(length);
  const offer = (left: number): void => {
    if (left < 0) return;
    const right = next[left] as number;
    if (right >= length) return;
    const rank = table.rank(symbols[left] as number, symbols[right] as number);
    if (rank >= 0) heap.push(rank * POSITIONS + left);
  };
  for (let i = 0; i + 1 < length; i++) offer(i);

  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    const left = key % POSITIONS;
    const right = next[left] as number;
    const first = symbols[left] as number;
    // Stale when either half has merged with another neighbour since: then the pair has another rank, or is no more.
    if (first < 0 || right >= length) continue;
    const second = symbols[right] as number;
    if (table.rank(first, second) !== Math.floor(key / POSITIONS)) continue;
    symbols[left] = table.result(first, second);
    symbols[right] = -1;
    const after = next[right] as number;
    next[left] = after;
    if (after < length) previous[after] = left;
    offer(previous[left] as number);
    offer(left);
  }
  return symbols.filter((id) => id >= 0);
}
