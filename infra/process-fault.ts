import type { RallyError } from "./errors.ts";

/** As ONNX Runtime, C++, CUDA and V8 put it that memory does not suffice. */
const NO_MEMORY = /failed to allocate|bad[_ ]alloc|out of memory|allocation failed/i;

/** Whether this is trouble of the process that met it, which a new one may not have, and not of what it was to compute. */
export function isProcessFault({ code, message }: Pick<RallyError, "code" | "message">): boolean {
  if (code === "out-of-memory" || code === "device-lost") return true;
  return (code === "session-failed" || code === "internal") && NO_MEMORY.test(message);
}
