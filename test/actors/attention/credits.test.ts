import { describe, expect, it } from "vitest";
import { Credits } from "../../../actors/attention/credits.ts";

describe("Credits", () => {
  it("sends at most the limit per shard, the rest in order as credits return", () => {
    const sent: string[] = [];
    const credits = new Credits<string>(2, 2, (holder) => void sent.push(holder));
    for (const holder of ["a", "b", "c", "d"]) credits.take(0, holder);
    credits.take(1, "x");
    expect(sent).toEqual(["a", "b", "x"]);
    expect(credits.inUse).toBe(3);
    credits.release(0, "b");
    expect(sent).toEqual(["a", "b", "x", "c"]);
    credits.release(0, "a");
    credits.release(0, "c");
    credits.release(0, "d");
    credits.release(1, "x");
    expect(sent).toEqual(["a", "b", "x", "c", "d"]);
    expect(credits.inUse).toBe(0);
  });

  it("lets those who wait leave without ever being sent", () => {
    const sent: string[] = [];
    const credits = new Credits<string>(1, 1, (holder) => void sent.push(holder));
    for (const holder of ["a", "b", "c"]) credits.take(0, holder);
    credits.release(0, "b");
    credits.release(0, "never seen");
    credits.release(0, "a");
    expect(sent).toEqual(["a", "c"]);
    credits.release(0, "c");
    expect(credits.inUse).toBe(0);
  });
});
