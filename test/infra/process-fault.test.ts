import { expect, test } from "vitest";
import { type ErrorCode, RallyError } from "../../infra/errors.ts";
import { isProcessFault } from "../../infra/process-fault.ts";

test.each<[ErrorCode, string]>([
  [
    "session-failed",
    "layer-1-attend.onnx: Non-zero status code returned while running Transpose node. Name:'Transpose_1' Status Message: bfc_arena.cc:359 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 3145728",
  ],
  ["session-failed", "layer-1-ffn.onnx: std::bad_alloc"],
  ["session-failed", "layer-1-ffn.onnx: CUDA failure 2: out of memory"],
  ["internal", "Array buffer allocation failed"],
  ["out-of-memory", "layer-1-device.onnx: CUDA failure 2: out of memory"],
  ["device-lost", "layer-1-device.onnx: a kernel failed, and this process has lost its GPU: CUDA failure 700"],
])("%s: %s", (code, message) => {
  expect(isProcessFault(new RallyError(code, message))).toBe(true);
});

test("other failures, and what others say in other codes, are none", () => {
  expect(isProcessFault(new RallyError("session-failed", "the graph has no input x"))).toBe(false);
  expect(isProcessFault(new RallyError("overloaded", "out of memory"))).toBe(false);
});

test("that of a buffer no process can have is one", () => {
  let error: unknown;
  try {
    error = new ArrayBuffer(2 ** 52);
  } catch (thrown) {
    error = thrown;
  }
  expect(isProcessFault(RallyError.from(error))).toBe(true);
});
