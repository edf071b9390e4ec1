import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { gpuCommand } from "../../../actors/cli/gpu.ts";
import { runtimeFolder } from "../../../infra/gpu/runtime.ts";
import { rally } from "../../support/cli.ts";

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  // As an earlier setup left it, but without the headers that the addon is compiled with.
  const folder = runtimeFolder(path.join(dir, "rally"));
  mkdirSync(path.join(folder, "lib"), { recursive: true });
  writeFileSync(path.join(folder, "lib/provider.so"), "provider");
  const sha256 = createHash("sha256").update("provider").digest("hex");
  const files = { "lib/provider.so": { bytes: 8, sha256 } };
  writeFileSync(path.join(folder, "manifest.json"), JSON.stringify({ version: "1.29.0", source: "a test", files }));
});
afterEach(() => rmSync(dir, { recursive: true }));

const gpu = (...args: readonly string[]) =>
  rally([gpuCommand], ["gpu", ...args], { env: { XDG_CACHE_HOME: dir, PATH: "/nowhere", NVCC: "/no/such/nvcc" } });

test.each([[[]], [["start"]], [["setup", "again"]]])("knows setup only, not %j", async (args) => {
  const { status, stderr } = await gpu(...args);
  expect([status, stderr]).toEqual([2, expect.stringContaining("rally gpu knows setup only")]);
});

test("what is there is not fetched again; what cannot be built is said and no failure", async () => {
  const { status, stdout } = await gpu("setup");
  expect(status).toBe(0);
  expect(stdout).toContain("ONNX Runtime 1.29.0, CUDA provider: there already (a test)");
  expect(stdout).toMatch(/the native addon could not be built: there is no C\+\+ compiler/);
  expect(stdout).toMatch(/the CUDA kernels could not be built: there is no nvcc \(\/no\/such\/nvcc\)/);
});

test("for programs it is one object", async () => {
  const { stdout } = await gpu("setup", "--json");
  expect(JSON.parse(stdout)).toMatchObject({
    version: "1.29.0",
    source: "a test",
    fetched: false,
    libraries: path.join(runtimeFolder(path.join(dir, "rally")), "lib"),
    addonError: { code: "provider-unavailable" },
    kernelsError: { code: "provider-unavailable" },
  });
});
