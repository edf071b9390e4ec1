import { expect, it } from "vitest";
import { findLibraries, type LibraryPorts } from "../../../infra/gpu/cuda-libraries.ts";

const NAMES = ["libcudart.so.13", "libcublas.so.13"];

/** A machine with these files. */
function machine(files: readonly string[], more: Partial<LibraryPorts> = {}): LibraryPorts {
  return {
    env: { HOME: "/home/me" },
    exists: (file) => files.includes(file),
    list(folder) {
      const inside = files.filter((file) => file.startsWith(`${folder}/`));
      return [...new Set(inside.map((file) => file.slice(folder.length + 1).split("/")[0] ?? ""))];
    },
    loaderCache: () => "",
    ...more,
  };
}

it("looks in LD_LIBRARY_PATH first, then in the loader's cache", () => {
  const cache = [
    "2 libs found in cache `/etc/ld.so.cache'",
    "\tlibcudart.so.13 (libc6,x86-64) => /opt/cuda/libcudart.so.13",
    "\tlibcublas.so.13 (libc6,AArch64) => /opt/arm/libcublas.so.13",
    "\tlibcublas.so.13 (libc6,x86-64) => /opt/cuda/libcublas.so.13",
  ].join("\n");
  const ports = machine(["/mine/libcudart.so.13"], {
    env: { LD_LIBRARY_PATH: ":/none:/mine" },
    loaderCache: () => cache,
  });
  expect(findLibraries(NAMES, ports)).toEqual([
    { name: "libcudart.so.13", file: "/mine/libcudart.so.13", isKnown: true },
    { name: "libcublas.so.13", file: "/opt/cuda/libcublas.so.13", isKnown: true },
  ]);
});

it.each([
  ["the toolkit", "/usr/local/cuda-13.0/lib64/libcudart.so.13", {}],
  ["CUDA_HOME", "/opt/mine/lib64/libcudart.so.13", { CUDA_HOME: "/opt/mine" }],
  ["the wheels of one user", "/home/me/.local/lib/python3.12/site-packages/nvidia/cu13/lib/libcudart.so.13", {}],
  [
    "the wheels of an environment",
    "/venv/lib/python3.11/site-packages/nvidia/cu13/lib/libcudart.so.13",
    { VIRTUAL_ENV: "/venv" },
  ],
  ["the wheels of all", "/usr/local/lib/python3.12/dist-packages/nvidia/cuda_runtime/lib/libcudart.so.13", {}],
])("finds what the loader does not: %s", (_, file, env) => {
  const ports = machine([file], { env: { HOME: "/home/me", ...env } });
  expect(findLibraries(NAMES, ports)).toEqual([{ name: "libcudart.so.13", file, isKnown: false }]);
});

it("does not take another version's toolkit", () => {
  expect(findLibraries(NAMES, machine(["/usr/local/cuda-12.4/lib64/libcudart.so.13"]))).toEqual([]);
});
