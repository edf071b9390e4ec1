import { describe, expect, it } from "vitest";
import { RallyError } from "../../../infra/errors.ts";
import { nativeError } from "../../../infra/native/native-error.ts";

const thrown = (about: string, text: string) => Object.assign(new Error(text), { about });

describe("what the addon throws", () => {
  it.each([
    ["run", "CUDA failure 2: out of memory", "out-of-memory"],
    ["run", "Failed to allocate memory for requested buffer of size 1073741824", "out-of-memory"],
    ["graph", "BFCArena: Available memory of 1 is smaller than requested bytes of 2", "out-of-memory"],
    ["run", "std::bad_alloc", "out-of-memory"],
    ["run", "CUDA failure 700: an illegal memory access was encountered", "device-lost"],
    ["run", "Non-zero status code returned while running MfaDecode node. CUDA failure 719: unspecified", "device-lost"],
    ["run", "CUDA error cudaErrorMemoryAllocation:out of memory", "out-of-memory"],
    ["run", "CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered", "device-lost"],
    ["run", "CUDA error cudaErrorLaunchOutOfResources:too many resources requested for launch", "session-failed"],
    ["run", "rally.Fp8Gemm: CUDA failure 209: no kernel image is available for execution", "provider-unavailable"],
    ["provider", "CUDA failure 100: no CUDA-capable device is detected", "provider-unavailable"],
    ["provider", "libcudart.so.13: cannot open shared object file", "provider-unavailable"],
    ["run", "CUDA failure 701: too many resources requested for launch", "session-failed"],
    ["run", "rally.Fp8Gemm: workspace has 1 bytes, 2 are needed", "session-failed"],
    ["graph", "Load model failed", "session-failed"],
  ])("about %s: %s", (about, text, code) => {
    const error = nativeError(thrown(about, text), "model.onnx");
    expect(error).toBeInstanceOf(RallyError);
    expect(error).toMatchObject({ code, fields: { file: "model.onnx" } });
    expect(error.message).toContain(text.slice(0, 30));
  });

  it("stays as it is if it is a RallyError already", () => {
    const error = new RallyError("closed", "released");
    expect(nativeError(error, "model.onnx")).toBe(error);
  });
});
