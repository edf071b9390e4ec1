/**
 * The environment of a process that computes: glibc then asks the kernel for huge pages. Weights are read once per token, far
 * more of them than the caches hold, and with 4 KiB pages a quarter of the time goes into finding them. Other C libraries
 * ignore the variable. It must be set before the process starts.
 */
export function withHugePages(env: Readonly<NodeJS.ProcessEnv>): NodeJS.ProcessEnv {
  if (asksForHugePages(env)) return { ...env };
  return { ...env, [NAME]: [...tunablesOf(env), "glibc.malloc.hugetlb=1"].join(":") };
}

/** Whether the environment has chosen, one way or the other. */
function asksForHugePages(env: Readonly<NodeJS.ProcessEnv>): boolean {
  return tunablesOf(env).some((tunable) => tunable.startsWith("glibc.malloc.hugetlb="));
}

const NAME = "GLIBC_TUNABLES";

function tunablesOf(env: Readonly<NodeJS.ProcessEnv>): string[] {
  return (env[NAME] ?? "").split(":").filter((tunable) => tunable !== "");
}
