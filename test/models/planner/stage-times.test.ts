import { describe, expect, it } from "vitest";
import { measuredUpTo, timeAt, timeOfNext } from "../../../models/planner/stage-times.ts";

const points = [
  { rows: 128, us: 300 },
  { rows: 64, us: 200 },
];

describe("times between measured points", () => {
  it("lie on straight lines, whatever the order of the points", () => {
    expect(timeAt(points, 64, "x")).toBe(200);
    expect(timeAt(points, 96, "x")).toBe(250);
    expect(timeAt(points, 128, "x")).toBe(300);
  });

  it("are the first point's below it and refused above the last", () => {
    expect(timeAt(points, 8, "x")).toBe(200);
    expect(() => timeAt(points, 129, "the head")).toThrow(/the head was measured up to 128 rows, not at 129/);
    expect(() => timeAt([], 1, "x")).toThrow(/up to 0 rows/);
    expect(measuredUpTo(points)).toBe(128);
  });

  it("of experts are the next point's, for they multiply in tiles of rows", () => {
    expect(timeOfNext(points, 64, "x")).toBe(200);
    expect(timeOfNext(points, 64 + 1e-9, "x")).toBe(200);
    expect(timeOfNext(points, 65, "x")).toBe(300);
    expect(() => timeOfNext(points, 129, "the FFN stage")).toThrow(/the FFN stage was measured up to 128 rows/);
  });
});
