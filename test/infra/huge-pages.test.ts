import { expect, it } from "vitest";
import { withHugePages } from "../../infra/huge-pages.ts";

it("adds one tunable and leaves the others and the user's choice alone", () => {
  expect(withHugePages({ PATH: "/bin" })).toEqual({ PATH: "/bin", GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" });
  expect(withHugePages({ GLIBC_TUNABLES: "glibc.malloc.check=3" })).toEqual({
    GLIBC_TUNABLES: "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
  });
  expect(withHugePages({ GLIBC_TUNABLES: "glibc.malloc.hugetlb=0" })).toEqual({
    GLIBC_TUNABLES: "glibc.malloc.hugetlb=0",
  });
});
