import { expect, it } from "vitest";
import { withGlibcMemory } from "../../infra/glibc-memory.ts";

const KEEP = "glibc.malloc.trim_threshold=134217728:glibc.malloc.mmap_threshold=8388608";

it("adds tunables and leaves the others and the user's choice alone", () => {
  expect(withGlibcMemory({ PATH: "/bin" })).toEqual({ PATH: "/bin", GLIBC_TUNABLES: `glibc.malloc.hugetlb=1:${KEEP}` });
  expect(withGlibcMemory({ GLIBC_TUNABLES: "glibc.malloc.check=3" })).toEqual({
    GLIBC_TUNABLES: `glibc.malloc.check=3:glibc.malloc.hugetlb=1:${KEEP}`,
  });
  expect(withGlibcMemory({ GLIBC_TUNABLES: "glibc.malloc.hugetlb=0" })).toEqual({
    GLIBC_TUNABLES: `glibc.malloc.hugetlb=0:${KEEP}`,
  });
});

it("changes nothing twice", () => {
  const once = withGlibcMemory({});
  expect(withGlibcMemory(once)).toEqual(once);
});
