import { describe, expect, it } from "vitest";
import { KV_BLOCK, KvCache } from "../../models/kv-cache.ts";

const HEAD_DIM = 4;

function cache(maxSlots = 4, maxLength = 300): KvCache {
  return new KvCache({ numLayers: 2, maxSlots, maxLength, headDim: HEAD_DIM });
}

/** Writes a value that tells layer, slot, position and side apart. */
function fill(kv: KvCache, slot: number, length: number, tag = slot): void {
  for (const layer of [0, 1]) {
    const { keys, values } = kv.view(layer, slot, 1);
    for (let i = 0; i < length * HEAD_DIM; i++) {
      keys[i] = tag * 10_000 + i + layer * 0.25;
      values[i] = -(keys[i] as number);
    }
  }
}

function holds(kv: KvCache, slot: number, length: number, tag = slot): boolean {
  return [0, 1].every((layer) => {
    const { keys, values } = kv.view(layer, slot, 1);
    return Array.from({ length: length * HEAD_DIM }).every((_, i) => {
      const expected = Math.fround(tag * 10_000 + i + layer * 0.25);
      return keys[i] === expected && values[i] === -expected;
    });
  });
}

describe("the KV cache", () => {
  it("grows and shrinks in blocks and keeps what the slots hold", () => {
    const kv = cache();
    expect([kv.stride, kv.maxLength]).toEqual([KV_BLOCK, 320]);
    const lengths = [60, 3, 41, 64];
    for (const [slot, length] of lengths.entries()) fill(kv, slot, length);
    kv.reserve(64, 4);
    expect(kv.stride).toBe(64);
    for (const [length, stride] of [
      [65, 128],
      [300, 320],
    ] as const) {
      kv.reserve(length, 4);
      expect(kv.stride).toBe(stride);
      for (const [slot, held] of lengths.entries()) expect(holds(kv, slot, held), `slot ${slot}`).toBe(true);
    }
    kv.reserve(10, 4);
    expect(kv.stride).toBe(320);
    kv.shrink(64, 4);
    expect(kv.stride).toBe(64);
    for (const [slot, held] of lengths.entries()) expect(holds(kv, slot, held), `slot ${slot}`).toBe(true);
    kv.shrink(0, 0);
    expect(kv.stride).toBe(64);
  });

  it("shows neighbouring slots as one tensor", () => {
    const kv = cache();
    kv.reserve(100, 4);
    for (const slot of [1, 2]) fill(kv, slot, 100);
    const { keys } = kv.view(1, 1, 2);
    expect(keys.length).toBe(2 * 128 * HEAD_DIM);
    expect(keys.subarray(128 * HEAD_DIM, 130 * HEAD_DIM)).toEqual(kv.view(1, 2, 1).keys.subarray(0, 2 * HEAD_DIM));
  });

  it("swaps slots of different lengths", () => {
    const kv = cache();
    fill(kv, 0, 7);
    fill(kv, 3, 50);
    kv.swap(0, 3, 50);
    expect(holds(kv, 0, 50, 3) && holds(kv, 3, 7, 0)).toBe(true);
    kv.swap(2, 2, 50);
  });

  it("refuses more than it was made for", () => {
    expect(() => cache().reserve(321, 1)).toThrow("broken invariant");
    expect(() => cache().view(2, 0, 1)).toThrow("broken invariant");
  });
});
