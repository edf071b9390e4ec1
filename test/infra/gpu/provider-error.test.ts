import { expect, it } from "vitest";
import { isMissingProvider } from "../../../infra/gpu/provider-error.ts";

it.each([
  "OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library",
  "FAIL : Failed to load library /x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open",
  "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1",
  "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1",
])("a provider is missing: %s", (text) => expect(isMissingProvider(text)).toBe(true));

it.each(["CUDA failure 2: out of memory ; GPU=0", "Load model from /x.onnx failed:Protobuf parsing failed."])(
  "a graph does not load: %s",
  (text) => expect(isMissingProvider(text)).toBe(false),
);
