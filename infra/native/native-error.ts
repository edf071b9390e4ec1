import { RallyError } from "../errors.ts";
import { isMissingProvider, missingProvider } from "../gpu/provider-error.ts";

/** Of the host, of a device, or of ONNX Runtime's own pool. */
const OUT_OF_MEMORY =
  /CUDA failure 2:|out of memory|Failed to allocate memory|std::bad_alloc|smaller than requested bytes|CUBLAS_STATUS_ALLOC_FAILED/i;

/**
 * CUDA's errors after which a process can use the device no more: faults of a kernel (7xx), of the memory itself (214, 220, 226) and of
 * what came after them. Not among them: a launch that was refused (701), and orders that were wrong (704 to 708, 711 to 713). ONNX
 * Runtime names some by their numbers, some by their names.
 */
const DEVICE_LOST = new RegExp(
  [
    "CUDA failure (214|220|226|700|702|709|710|714|715|716|717|718|719|721|999):",
    "cudaError(ECCUncorrectable|NvlinkUncorrectable|Contained|IllegalAddress|LaunchTimeout|ContextIsDestroyed|Assert)\\b",
    "cudaError(HardwareStackError|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|LaunchFailure)\\b",
    "cudaErrorUnknown\\b",
  ].join("|"),
);

/** An operator whose kernels were built for other GPUs. */
const OTHER_GPU =
  /CUDA failure (98|209|222):|cudaError(InvalidDeviceFunction|NoKernelImageForDevice|UnsupportedPtxVersion)\b/;

/** What the addon threw, as the error that the caller of a Session expects. */
export function nativeError(thrown: unknown, graphFile: string): RallyError {
  if (thrown instanceof RallyError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  // A library of operators that does not load is about neither.
  const about = thrown instanceof Error && "about" in thrown ? thrown.about : undefined;
  if (about === "provider" || (about === "graph" && isMissingProvider(text)))
    return missingProvider("cuda", text, graphFile, thrown);
  if (OTHER_GPU.test(text)) {
    const message = `${graphFile}: the operators are built for another kind of GPU (compute capability 9.0): ${text}`;
    return new RallyError("provider-unavailable", message, { file: graphFile }, { cause: thrown });
  }
  if (DEVICE_LOST.test(text)) {
    const message = `${graphFile}: a kernel failed, and this process has lost its GPU: ${text}`;
    return new RallyError("device-lost", message, { file: graphFile }, { cause: thrown });
  }
  if (OUT_OF_MEMORY.test(text)) {
    return new RallyError("out-of-memory", `${graphFile}: ${text}`, { file: graphFile }, { cause: thrown });
  }
  return new RallyError("session-failed", `${graphFile}: ${text}`, { file: graphFile }, { cause: thrown });
}
