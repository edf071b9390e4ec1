import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { openOrtSession } from "../../infra/ort-session.ts";
import { PROVIDERS } from "../../infra/session.ts";
import { OnnxGraph } from "../../models/graph/onnx.ts";

/** `node try-provider.js PROVIDER`: runs a matrix product there. Exit status 1, and why on standard error, if that fails. */

const provider = PROVIDERS.find((known) => known === process.argv[2]);
const dir = mkdtempSync(path.join(tmpdir(), "rally-try-"));
try {
  if (provider === undefined) throw new Error(`unknown provider ${process.argv[2]}`);
  const graph = new OnnxGraph("try");
  graph.input("a", "f32", [2, 2]);
  graph.input("b", "f32", [2, 2]);
  graph.node("MatMul", ["a", "b"], ["product"]);
  graph.output("product", "f32", [2, 2]);
  const file = path.join(dir, "try.onnx");
  writeFileSync(file, graph.finish());
  const session = openOrtSession(file, { numThreads: 1, provider });
  const product = new Float32Array(4);
  const [a, b] = [Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8)].map((data) => session.tensor(data, [2, 2]));
  if (a === undefined || b === undefined) throw new Error("broken invariant: two matrices");
  session.run({ a, b }, { product: session.tensor(product, [2, 2]) });
  session.release();
  if (product.join(" ") !== "19 22 43 50") throw new Error(`a matrix product came out wrong: ${product.join(" ")}`);
} catch (thrown) {
  process.stderr.write(`${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
