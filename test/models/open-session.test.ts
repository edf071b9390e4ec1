import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { addonFile } from "../../infra/native/build.ts";
import { openOrtSession } from "../../infra/ort-session.ts";
import { cacheFolder } from "../../infra/settings.ts";
import { kernelsFile } from "../../models/kernels/build.ts";
import { haveGpu } from "../support/gpu.ts";
import { deviceOpener, openCudaSession, sessionOpener } from "../../models/open-session.ts";

const hasGpu = await haveGpu();
let dir: string;
let warnings: string[];
const cuda = { numThreads: 1, provider: "cuda", warn: (text: string) => warnings.push(text) } as const;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  vi.stubEnv("XDG_CACHE_HOME", dir);
  warnings = [];
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true });
});

function put(file: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, "");
}

it("the CPU has no device, and nothing is missing for it", () => {
  const options = { ...cuda, provider: "cpu" } as const;
  expect(deviceOpener(options, "f32")).toBeUndefined();
  expect(sessionOpener(options)).toBe(openOrtSession);
  const open = sessionOpener({ ...options, cores: [0] });
  expect(() => open(path.join(dir, "none.onnx"), { numThreads: 1 })).toThrow(
    expect.objectContaining({ code: "session-failed" }),
  );
  expect(warnings).toEqual([]);
});

it.skipIf(hasGpu)("without the addon onnxruntime-node computes on the GPU, and that is said", () => {
  expect(deviceOpener(cuda, "f32")).toBeUndefined();
  expect(warnings).toEqual([expect.stringContaining("has not built the native addon: onnxruntime-node computes")]);
  const open = sessionOpener(cuda);
  expect(open).not.toBe(openOrtSession);
  // Not on the CPU instead.
  expect(() => open(path.join(dir, "none.onnx"), { numThreads: 1 })).toThrow(
    expect.objectContaining({ code: "provider-unavailable" }),
  );
});

it("without the kernels keys and values stay on the host, and that is said; experts need none", () => {
  put(addonFile(cacheFolder()));
  expect(deviceOpener(cuda, "f32")).toBeUndefined();
  expect(warnings).toEqual([
    expect.stringContaining("has not built the CUDA kernels (f32): keys and values stay in host memory"),
  ]);
  expect(sessionOpener(cuda)).toBe(openCudaSession);
  expect(deviceOpener(cuda)).toMatchObject({ open: expect.any(Function) });
  expect(warnings).toHaveLength(1);
});

it("without Hopper's kernels it computes in f32, and that is said", () => {
  put(addonFile(cacheFolder()));
  put(kernelsFile(cacheFolder(), "f32"));
  expect(deviceOpener(cuda, "hopper")).toBeUndefined();
  expect(warnings).toEqual([expect.stringContaining("CUDA kernels (hopper): it computes in f32 instead of FP8")]);
});

it("with both everything stays on the device", () => {
  put(addonFile(cacheFolder()));
  put(kernelsFile(cacheFolder(), "f32"));
  expect(deviceOpener(cuda, "f32")).toMatchObject({ open: expect.any(Function) });
  expect(warnings).toEqual([]);
});
