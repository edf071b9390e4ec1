import { expect, it } from "vitest";
import { PagedCache, PagePool } from "../../../models/step3/page-pool.ts";

const limits = { maxSlots: 4, maxLength: 1024 };

it("a slot has as many pages as its tokens need, and gives back the rest", () => {
  const pool = new PagePool(20);
  const cache = new PagedCache(pool, limits);
  const first = [...cache.pages(0, 65)];
  expect(first).toHaveLength(2);
  expect([...cache.pages(0, 1024)].slice(0, 2)).toEqual(first);
  expect(pool.numFree).toBe(4);
  expect(cache.pages(0, 64)).toEqual(first.slice(0, 1));
  cache.clear(0);
  cache.clear(0);
  expect(pool.numFree).toBe(20);
});

it("no page belongs to two slots, of one cache or of several", () => {
  const pool = new PagePool(12);
  const caches = [new PagedCache(pool, limits), new PagedCache(pool, limits)];
  const pages = caches.flatMap((cache) => [0, 3].flatMap((slot) => [...cache.pages(slot, 150)]));
  expect(new Set(pages).size).toBe(12);
  expect(() => caches[0]?.pages(1, 1)).toThrow(expect.objectContaining({ code: "overloaded" }));
});

it("pages move with their slot", () => {
  const cache = new PagedCache(new PagePool(8), limits);
  const [a, b] = [[...cache.pages(1, 100)], [...cache.pages(2, 10)]];
  cache.swap(1, 2);
  expect([cache.pages(1, 10), cache.pages(2, 100)]).toEqual([b, a]);
});
