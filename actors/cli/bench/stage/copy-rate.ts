import type { Place } from "../../../../models/kernels/check/runner.ts";
import { BenchGraph } from "./bench-graph.ts";
import { timeGraph } from "./time-graph.ts";

const GIB = 2 ** 30;

/** Bytes read plus bytes written per second when a GiB is negated into another, by ONNX Runtime's own kernel. */
export function copyBytesPerSecond(place: Place, bytes = GIB): number {
  const graph = new BenchGraph("copy");
  const dims = [bytes / 4];
  graph.input(
    "x",
    "f32",
    dims,
    Float32Array.from({ length: 4099 }, (_, i) => i - 2000),
  );
  graph.stock("node", "Neg", ["x"], ["y"]);
  graph.output("y", "f32", dims);
  graph.units = 1;
  return ((2 * bytes) / timeGraph(place, graph)) * 1e6;
}
