import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OnnxGraph } from "../../models/graph/onnx.ts";
import type { OpenSession, Session } from "../../infra/session.ts";

/** What every Session must do. The graph doubles `x` [rows, 2] and counts in i64. */
export function sessionContract(name: string, open: OpenSession): void {
  describe(`session: ${name}`, () => {
    let dir: string;
    let graphFile: string;

    beforeAll(() => {
      dir = mkdtempSync(path.join(tmpdir(), "rally-session-"));
      graphFile = path.join(dir, "double.onnx");
      const graph = new OnnxGraph("double");
      graph.input("x", "f32", ["rows", 2]);
      graph.input("counts", "i64", [2]);
      graph.node("Add", ["x", "x"], ["doubled"]);
      graph.node("Add", ["counts", "counts"], ["sum"]);
      graph.output("doubled", "f32", ["rows", 2]);
      graph.output("sum", "i64", [2]);
      writeFileSync(graphFile, graph.finish());
    });

    afterAll(() => rmSync(dir, { recursive: true, force: true }));

    const counts = (session: Session) => session.tensor(BigInt64Array.of(3n, -4n), [2]);

    it.each([1, 2])("writes the fetches in place, %i threads", (numThreads) => {
      const session = open(graphFile, { numThreads });
      const [x, doubled, sum] = [Float32Array.of(1, 2, 3, 4), new Float32Array(4), new BigInt64Array(2)];
      const feeds = { x: session.tensor(x, [2, 2]), counts: counts(session) };
      const fetches = { doubled: session.tensor(doubled, [2, 2]), sum: session.tensor(sum, [2]) };
      session.run(feeds, fetches);
      expect([...doubled]).toEqual([2, 4, 6, 8]);
      expect([...sum]).toEqual([6n, -8n]);
      // Kept tensors see what their memory holds now.
      x[0] = 10;
      session.run(feeds, fetches);
      expect(doubled[0]).toBe(20);
      session.release();
    });

    it("takes views into larger memory, and no rows at all", () => {
      const session = open(graphFile, { numThreads: 1 });
      const memory = Float32Array.of(0, 0, 5, 6, 0, 0, 0, 0);
      const run = (from: number, to: number) => {
        const [x, doubled] = [memory.subarray(from, to), memory.subarray(from + 2, to + 2)];
        const dims = [x.length / 2, 2];
        session.run(
          { x: session.tensor(x, dims), counts: counts(session) },
          { doubled: session.tensor(doubled, dims), sum: session.tensor(new BigInt64Array(2), [2]) },
        );
      };
      run(2, 4);
      run(4, 4);
      expect([...memory]).toEqual([0, 0, 5, 6, 10, 12, 0, 0]);
      session.release();
    });

    it("computes only into what is asked for", () => {
      const session = open(graphFile, { numThreads: 1 });
      const doubled = new Float32Array(2);
      const x = session.tensor(Float32Array.of(1, 2), [1, 2]);
      session.run({ x, counts: counts(session) }, { doubled: session.tensor(doubled, [1, 2]) });
      expect([...doubled]).toEqual([2, 4]);
      session.release();
    });

    it("refuses tensors that do not fit the graph", () => {
      const session = open(graphFile, { numThreads: 1 });
      const run = (x: readonly number[], data: Float32Array | Int32Array) =>
        session.run(
          { x: session.tensor(data, x), counts: counts(session) },
          { doubled: session.tensor(new Float32Array(2), [1, 2]) },
        );
      const refused = expect.objectContaining({ code: "session-failed" });
      expect(() => run([1, 3], new Float32Array(3))).toThrow(refused);
      expect(() => run([1, 2], new Float32Array(1))).toThrow(refused);
      expect(() => run([1, 2], new Int32Array(2))).toThrow(refused);
      expect(() => session.run({}, {})).toThrow(refused);
      // And works on.
      run([1, 2], new Float32Array(2));
      session.release();
    });

    it("refuses a file that is not a graph or not there", () => {
      const broken = path.join(dir, "broken.onnx");
      writeFileSync(broken, "not a graph");
      for (const file of [broken, path.join(dir, "missing.onnx")]) {
        const open1 = () => open(file, { numThreads: 1 });
        expect(open1).toThrow(expect.objectContaining({ code: "session-failed" }));
        expect(open1).toThrow(file);
      }
    });

    it("is closed after release, which may be repeated", () => {
      const session = open(graphFile, { numThreads: 1 });
      session.release();
      session.release();
      expect(() => session.run({}, {})).toThrow(expect.objectContaining({ code: "closed" }));
    });
  });
}
