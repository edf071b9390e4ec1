/**
 * onnxruntime-node copies each output of a run into a fresh ArrayBuffer. V8 counts these, and with the small heap that a thread starts
 * with it marks and sweeps several times a second for them. Given room, the short collections of young objects take care of them.
 */
const HEAP_FLAGS = ["--initial-old-space-size=128", "--min-semi-space-size=16"];

/**
 * V8 compiles a function well once enough of it has run. What runs once per layer takes hundreds of steps to get there, which are
 * slower by a tenth until then. Less than a third of V8's own budget gets it there within the first ones.
 */
const COMPILER_FLAGS = ["--interrupt-budget=20000"];

/** V8's flags where graphs run. */
export const THREAD_FLAGS: readonly string[] = [...HEAP_FLAGS, ...COMPILER_FLAGS];
