import { describe, expect, it } from "vitest";
import { Coalescer } from "../../../actors/expert/coalesce.ts";

const batch = (name: string, layer: number, numTokens = 1) => ({ name, layer, numTokens });
const names = (batches: readonly { readonly name: string }[]) => batches.map(({ name }) => name);

describe("Coalescer", () => {
  it("takes the oldest with all others of its layer, the rest in order of arrival", () => {
    const coalescer = new Coalescer<ReturnType<typeof batch>>({ maxWaiting: 10, maxTokens: 100 });
    for (const each of [batch("a", 3), batch("b", 1), batch("c", 3), batch("d", 2), batch("e", 1), batch("f", 3)]) {
      coalescer.push(each);
    }
    expect(names(coalescer.take())).toEqual(["a", "c", "f"]);
    coalescer.push(batch("g", 2));
    expect(names(coalescer.take())).toEqual(["b", "e"]);
    expect(names(coalescer.take())).toEqual(["d", "g"]);
    expect(coalescer.take()).toEqual([]);
    expect(coalescer.size).toBe(0);
  });

  it("joins as many as fit, but never splits nor refuses a single large one", () => {
    const coalescer = new Coalescer<ReturnType<typeof batch>>({ maxWaiting: 10, maxTokens: 10 });
    for (const each of [batch("a", 1, 6), batch("b", 1, 5), batch("c", 1, 4), batch("d", 1, 50)]) coalescer.push(each);
    expect(names(coalescer.take())).toEqual(["a", "c"]);
    expect(names(coalescer.take())).toEqual(["b"]);
    expect(names(coalescer.take())).toEqual(["d"]);
  });

  it("says when it is full, and holds no more", () => {
    const coalescer = new Coalescer<ReturnType<typeof batch>>({ maxWaiting: 2, maxTokens: 10 });
    coalescer.push(batch("a", 1));
    expect(coalescer.isFull).toBe(false);
    coalescer.push(batch("b", 1));
    expect(coalescer.isFull).toBe(true);
    expect(() => coalescer.push(batch("c", 1))).toThrow("broken invariant");
    coalescer.take();
    expect(coalescer.isFull).toBe(false);
  });
});
