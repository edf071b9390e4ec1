import { expect, it } from "vitest";
import { tileCounts } from "../../../models/step3/tile-counts.ts";

const request = (numSequences: number, chunk: number, ...pasts: number[]) => ({ numSequences, chunk, pasts });

it("tiles are filled one after the other", () => {
  expect(tileCounts(request(1, 1, 0), false)).toEqual([1]);
  expect(tileCounts(request(1, 150, 3), false)).toEqual([64, 64, 22]);
  expect(tileCounts(request(70, 1, ...Array<number>(70).fill(64)), true)).toEqual([64, 6]);
});

it("a page's first token never goes with others of its page where it wipes it", () => {
  expect(tileCounts(request(1, 150, 0), true)).toEqual([1, 64, 64, 21]);
  expect(tileCounts(request(1, 10, 60), true)).toEqual([5, 5]);
  expect(tileCounts(request(3, 2, 63, 64, 10), true)).toEqual([3, 3]);
  // Each of another sequence.
  expect(tileCounts(request(3, 1, 0, 64, 1), true)).toEqual([3]);
});
