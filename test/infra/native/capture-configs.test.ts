import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { InferenceSession } from "onnxruntime-node";
import { afterEach, beforeEach, expect, it } from "vitest";
import { CAPTURE_CONFIGS } from "../../../infra/native/native-session.ts";
import { OnnxGraph } from "../../../models/graph/onnx.ts";

let dir: string;

beforeEach(() => (dir = mkdtempSync(path.join(tmpdir(), "rally-test-"))));
afterEach(() => rmSync(dir, { recursive: true }));

/** Whether ONNX Runtime makes one Split of several Slices of a tensor. */
async function fuses(disabled: string): Promise<boolean> {
  const graph = new OnnxGraph("slices");
  graph.input("x", "f32", ["rows", 96]);
  const bounds = [0, 32, 48, 96];
  for (const [i, to] of bounds.slice(1).entries()) {
    const from = bounds[i] ?? 0;
    const range = [from, to, 1].map((value, part) => graph.integers(`range_${i}_${part}`, [value]));
    graph.node("Relu", [graph.node("Slice", ["x", ...range], [`part_${i}`])], [`y_${i}`]);
    graph.output(`y_${i}`, "f32", ["rows", to - from]);
  }
  const [file, optimized] = [path.join(dir, "slices.onnx"), path.join(dir, "optimized.onnx")];
  writeFileSync(file, graph.finish());
  const session = await InferenceSession.create(file, {
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
    optimizedModelFilePath: optimized,
    extra: { optimization: { disable_specified_optimizers: disabled } },
  });
  await session.release();
  return readFileSync(optimized, "latin1").includes("Split");
}

it("a session that captures CUDA graphs keeps Slices as they are", async () => {
  const [key, disabled] = CAPTURE_CONFIGS;
  expect(key).toBe("optimization.disable_specified_optimizers");
  expect(await fuses("")).toBe(true);
  expect(await fuses(disabled)).toBe(false);
});
