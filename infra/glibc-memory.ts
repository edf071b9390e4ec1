/**
 * How glibc is to get memory from the kernel in a process that computes; other C libraries ignore the variable, which must be set before
 * the process starts. In huge pages: weights are read once per token, far more of them than the caches hold, and with 4 KiB pages a
 * quarter of the time goes into finding them. And what one pass frees stays for the next: given back, it would come again page by page,
 * each filled with zeros first.
 */
const TUNABLES: Readonly<Record<string, number>> = {
  "glibc.malloc.hugetlb": 1,
  /** As much may be free at the end of a heap. */
  "glibc.malloc.trim_threshold": 128 << 20,
  /** Larger than what a pass takes; what is read once at the start, such as whole weights, goes back when it is freed. */
  "glibc.malloc.mmap_threshold": 8 << 20,
};

const NAME = "GLIBC_TUNABLES";

/** `env` with what it has not chosen itself. */
export function withGlibcMemory(env: Readonly<NodeJS.ProcessEnv>): NodeJS.ProcessEnv {
  const chosen = (env[NAME] ?? "").split(":").filter((tunable) => tunable !== "");
  const ours = Object.entries(TUNABLES)
    .filter(([name]) => !chosen.some((tunable) => tunable.startsWith(`${name}=`)))
    .map(([name, value]) => `${name}=${value}`);
  return ours.length === 0 ? { ...env } : { ...env, [NAME]: [...chosen, ...ours].join(":") };
}
