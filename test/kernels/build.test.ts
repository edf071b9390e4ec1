import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { buildKernels, kernelsFile, requireKernels } from "../../models/kernels/build.ts";

let dir: string;
let cacheDir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
  cacheDir = path.join(dir, "cache");
});
afterEach(() => rmSync(dir, { recursive: true }));

const build = (env: NodeJS.ProcessEnv) =>
  buildKernels({
    cacheDir,
    headerFolder: "/the/headers",
    env: { PATH: process.env["PATH"], ...env },
    progress: () => undefined,
  });

/** A compiler that writes what it was told into the file that it should make, and fails where `fails` is in its arguments. */
function fakeNvcc(fails: string): string {
  const file = path.join(dir, "nvcc");
  const script = `#!/bin/sh
[ "$1" = --version ] && exit 0
case "$*" in *${fails}*) echo "error: ${fails} is wrong" >&2; exit 2;; esac
echo "$*" >> ${path.join(dir, "calls")}
while [ "$1" != -o ]; do shift; done
echo built > "$2"
`;
  writeFileSync(file, script);
  chmodSync(file, 0o755);
  return file;
}

it("compiles every source for H100s, once, and links them with CUDA's runtime inside", async () => {
  const file = await build({ NVCC: fakeNvcc("nothing") });
  expect(file).toBe(kernelsFile(cacheDir));
  expect(readFileSync(file, "utf8")).toBe("built\n");
  expect(requireKernels(cacheDir)).toBe(file);
  const calls = readFileSync(path.join(dir, "calls"), "utf8").trim().split("\n");
  const sources = ["models/kernels", "models/kernels/ops"].flatMap((folder) =>
    readdirSync(folder).filter((name) => /\.(cu|cc)$/.test(name)),
  );
  for (const source of sources) {
    expect(
      calls.filter((call) => call.endsWith(`/${source}`)),
      source,
    ).toHaveLength(1);
  }
  expect(calls).toHaveLength(sources.length + 1);
  for (const call of calls) expect(call).toContain("-gencode=arch=compute_90a,code=sm_90a");
  for (const call of calls.slice(0, -1)) expect(call).toContain("-isystem /the/headers");
  expect(calls.at(-1)).toMatch(/-shared -cudart=static/);
  await build({ NVCC: "/no/such/nvcc" });
});

it("tells what the compiler said, and leaves nothing", async () => {
  const failing = build({ NVCC: fakeNvcc("library.cc") });
  await expect(failing).rejects.toMatchObject({
    code: "provider-unavailable",
    message: expect.stringContaining("error: library.cc is wrong"),
  });
  expect(existsSync(kernelsFile(cacheDir))).toBe(false);
});

it("says that there is no compiler, and how to get one", async () => {
  await expect(build({ NVCC: "/no/such/nvcc" })).rejects.toMatchObject({
    code: "provider-unavailable",
    message: expect.stringMatching(/no nvcc \(\/no\/such\/nvcc\).*cuda-nvcc-13-0/),
  });
  expect(() => requireKernels(cacheDir)).toThrow(
    expect.objectContaining({ code: "provider-unavailable", message: expect.stringContaining("rally gpu setup") }),
  );
});
