import type { RallyError } from "./errors.ts";

/** As ONNX Runtime, C++, CUDA and V8 put it. */
const WORDS = /failed to allocate|bad[_ ]alloc|out of memory|allocation failed/i;

/** Whether the process that met this had no memory left for it: trouble of the process, not of what it was to compute. */
export function isOutOfMemory({ code, message }: Pick<RallyError, "code" | "message">): boolean {
  return (code === "session-failed" || code === "internal") && WORDS.test(message);
}
