import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../../infra/own-file.ts";
import { OnnxGraph } from "../../../models/graph/onnx.ts";
import { haveAddon } from "../../support/addon.ts";

const run = promisify(execFile);
const SIZE = 256;

describe.skipIf(!(await haveAddon()))("the addon", () => {
  let dir: string;
  let file: string;

  beforeAll(() => {
    dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    file = path.join(dir, "product.onnx");
    const graph = new OnnxGraph("product");
    graph.input("a", "f32", ["n", "n"]);
    graph.node("MatMul", ["a", "a"], ["product"]);
    graph.output("product", "f32", ["n", "n"]);
    writeFileSync(file, graph.finish());
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  const growth = fileURLToPath(new URL("../../support/native-growth.mjs", import.meta.url));
  const teardown = fileURLToPath(new URL("../../support/native-teardown.mjs", import.meta.url));
  const dist = path.join(packageRoot, "dist");

  // How many MiB an allocator may keep for itself; a leak would be several times that.
  it.each([
    ["sessions", 8],
    ["runs", 4],
    ["failing runs", 3],
    ["tensors", 30],
    ["runs on a lane", 8],
  ])("gives back what %s take", async (what, most) => {
    const { stdout } = await run(process.execPath, ["--expose-gc", growth, dist, file, what]);
    expect(Number(stdout)).toBeLessThan(most);
  });

  it("survives the end of threads and of the process in the midst of runs", { timeout: 120_000 }, async () => {
    await expect(run(process.execPath, [teardown, dist, file, String(SIZE)])).rejects.toMatchObject({
      code: 7,
      stderr: "",
    });
  });
});
