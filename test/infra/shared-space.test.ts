import { describe, expect, it } from "vitest";
import { SharedSpace } from "../../infra/shared-space.ts";
import { TestRandom } from "../support/random-values.ts";

describe("a stretch of shared memory", () => {
  it("gives the lowest gap that fits", () => {
    const space = new SharedSpace(100, 1000);
    expect([space.take(300), space.take(200), space.take(300)]).toEqual([100, 400, 600]);
    expect(space.take(101)).toBeUndefined();
    space.give(400);
    space.give(100);
    expect(space.take(500)).toBe(100);
    expect(space.take(1)).toBe(900);
  });

  it("tells memory that was used before from new memory", () => {
    const space = new SharedSpace(0, 1000);
    expect(space.takeUsed(10)).toBeUndefined();
    expect(space.take(100)).toBe(0);
    expect(space.take(50)).toBe(100);
    space.give(0);
    space.give(100);
    expect(space.takeUsed(151)).toBeUndefined();
    expect(space.takeUsed(150)).toBe(0);
  });

  it("never gives a byte twice, and gives all when all is back", () => {
    const random = new TestRandom(7);
    const space = new SharedSpace(64, 4096);
    const owner = Array.from<number | undefined>({ length: 4096 });
    const taken: { offset: number; size: number; id: number }[] = [];
    for (let id = 0; id < 5000; id++) {
      const size = 1 + random.below(600);
      const offset = random.below(2) === 0 ? space.takeUsed(size) : space.take(size);
      if (offset !== undefined) {
        expect(offset).toBeGreaterThanOrEqual(64);
        expect(offset + size).toBeLessThanOrEqual(4096);
        for (let at = offset; at < offset + size; at++) {
          if (owner[at] !== undefined) throw new Error(`byte ${at} belongs to ${owner[at]}, and now to ${id}`);
          owner[at] = id;
        }
        taken.push({ offset, size, id });
      }
      if (offset !== undefined && random.below(3) > 0) continue;
      const [part] = taken.splice(random.below(Math.max(1, taken.length)), 1);
      if (part === undefined) continue;
      space.give(part.offset);
      owner.fill(undefined, part.offset, part.offset + part.size);
    }
    for (const { offset } of taken) space.give(offset);
    expect(space.take(4096 - 64)).toBe(64);
  });
});
