import { expect, it } from "vitest";
import { InputPool } from "../../../actors/expert/input-pool.ts";

it("gives memory out again, but never what is in use", () => {
  const pool = new InputPool();
  const [a, b] = [pool.take(100), pool.take(100)];
  expect(a.buffer).not.toBe(b.buffer);
  pool.giveBack(a);
  const c = pool.take(60);
  expect(c).toHaveLength(60);
  expect(c.buffer).toBe(a.buffer);
  expect(pool.take(100).buffer).not.toBe(a.buffer);
  pool.giveBack(c);
  // Its whole length is there again.
  expect(pool.take(100).buffer).toBe(a.buffer);
  expect(pool.take(101)).toHaveLength(101);
});
