import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { LibraryPorts } from "../../../infra/gpu/cuda-libraries.ts";
import type { Nvidia } from "../../../infra/gpu/nvidia.ts";
import { CUDA_LIBRARIES, DRIVER_LIBRARY } from "../../../infra/gpu/pins.ts";
import { type CudaPorts, inspectCuda, requireProvider, withProvider } from "../../../infra/gpu/provider.ts";
import { findRuntime, runtimeFolder } from "../../../infra/gpu/runtime.ts";
import { cacheFolder } from "../../../infra/settings.ts";
import { canRun } from "../../support/host-tools.ts";

const H100: Nvidia = {
  driver: { version: "580.159.04", source: "nvidia-smi" },
  gpus: [{ name: "NVIDIA H100", computeCapability: 9, memoryMiB: 81559 }],
};
const LIBRARIES = [...CUDA_LIBRARIES, DRIVER_LIBRARY];

let cache: string;

beforeEach(() => (cache = mkdtempSync(path.join(tmpdir(), "rally-test-"))));
afterEach(() => rmSync(cache, { recursive: true }));

/** As `rally gpu setup` leaves it, but empty. */
function setUp(): string {
  const folder = runtimeFolder(path.join(cache, "rally"));
  mkdirSync(path.join(folder, "lib"), { recursive: true });
  writeFileSync(path.join(folder, "lib/provider.so"), "");
  const files = { "lib/provider.so": { bytes: 0, sha256: "" } };
  writeFileSync(path.join(folder, "manifest.json"), JSON.stringify({ version: "1.29.0", source: "a test", files }));
  return folder;
}

function machine(nvidia: Nvidia, libraries: readonly string[]): CudaPorts {
  const env = { XDG_CACHE_HOME: cache };
  const loaderCache = () => libraries.map((name) => `\t${name} (libc6,x86-64) => /cuda/${name}\n`).join("");
  const ports: LibraryPorts = { env, exists: () => false, list: () => [], loaderCache };
  return { env, nvidia: async () => nvidia, libraries: ports };
}

const missing = async (ports: CudaPorts) =>
  (await inspectCuda(ports)).filter(({ advice }) => advice !== undefined).map(({ name }) => name);

describe("inspectCuda", () => {
  it("lacks nothing where everything is, and says where", async () => {
    const folder = setUp();
    const needs = await inspectCuda(machine(H100, LIBRARIES));
    expect(needs.filter(({ advice }) => advice !== undefined)).toEqual([]);
    expect(needs.map(({ name, found }) => `${name}: ${found}`)).toEqual([
      "NVIDIA driver: 580.159.04 (nvidia-smi), /cuda/libcuda.so.1",
      "GPU: NVIDIA H100, compute capability 9.0, 81559 MiB",
      `CUDA 13 libraries: ${CUDA_LIBRARIES.map((name) => `/cuda/${name}`).join(", ")}`,
      `CUDA provider: ONNX Runtime 1.29.0, ${path.join(folder, "lib")} (a test)`,
    ]);
  });

  it("says what is too old", async () => {
    setUp();
    const old = { ...H100, driver: { version: "550.54.14", source: "nvidia-smi" } };
    expect(await missing(machine(old, LIBRARIES))).toEqual(["NVIDIA driver"]);
    const pascal = { ...H100, gpus: [{ name: "GTX 1080", computeCapability: 6.1 }] };
    expect(await missing(machine(pascal, LIBRARIES))).toEqual(["GPU"]);
    const unknown = { ...H100, gpus: [{ name: "NVIDIA H100" }] };
    expect(await missing(machine(unknown, LIBRARIES))).toEqual([]);
  });

  it("names each library that is missing, what is there, and the packages that have it", async () => {
    setUp();
    const needs = await inspectCuda(machine(H100, ["libcudart.so.13", DRIVER_LIBRARY]));
    expect(needs[2]?.found).toBe(
      "libcublas.so.13, libcublasLt.so.13, libcurand.so.10 missing; found: /cuda/libcudart.so.13",
    );
    expect(needs[2]?.advice).toMatch(
      /apt-get install libcublas-13-0 libcurand-13-0; .*pip install nvidia-cublas nvidia-curand;/,
    );
  });

  it("counts a driver without its library, and a provider that is damaged, as missing", async () => {
    const folder = setUp();
    writeFileSync(path.join(folder, "lib/provider.so"), "more");
    expect(await missing(machine(H100, CUDA_LIBRARIES))).toEqual(["NVIDIA driver", "CUDA provider"]);
  });
});

describe("requireProvider", () => {
  const nothing: Nvidia = { driver: undefined, gpus: [] };

  it("asks nothing of a machine that computes on its CPU", async () => {
    const nvidia = () => Promise.reject(new Error("asked"));
    await expect(requireProvider("cpu", { ...machine(nothing, []), nvidia })).resolves.toBeUndefined();
  });

  it("says all that is missing for cuda, and what to do", async () => {
    await expect(requireProvider("cuda", machine(nothing, []))).rejects.toMatchObject({
      code: "provider-unavailable",
      message: expect.stringMatching(
        /NVIDIA driver: none[\s\S]*libcublas\.so\.13[\s\S]*gpu setup[\s\S]*rally doctor --provider cuda/,
      ),
      fields: { provider: "cuda", missing: "NVIDIA driver, GPU, CUDA 13 libraries, CUDA provider" },
    });
    setUp();
    await expect(requireProvider("cuda", machine(H100, LIBRARIES))).resolves.toBeUndefined();
  });
});

describe("withProvider", () => {
  it("leaves the environment of the CPU alone", () => {
    expect(withProvider("cpu", { PATH: "/bin" })).toEqual({ PATH: "/bin" });
  });

  it("puts the provider's folder first, once", () => {
    const folder = path.join(setUp(), "lib");
    const env = withProvider("cuda", { XDG_CACHE_HOME: cache, LD_LIBRARY_PATH: "/mine:" });
    expect(env["LD_LIBRARY_PATH"]?.split(":")[0]).toBe(folder);
    expect(env["LD_LIBRARY_PATH"]?.split(":").at(-1)).toBe("/mine");
    expect(withProvider("cuda", env)).toEqual(env);
  });
});

const installed = findRuntime(cacheFolder());

it.skipIf(installed === undefined || !canRun("readelf", "--version"))("knows what the provider library needs", () => {
  const file = path.join(installed?.libraryFolder ?? "", "libonnxruntime_providers_cuda.so");
  const needed = [...execFileSync("readelf", ["-d", file], { encoding: "utf8" }).matchAll(/\(NEEDED\).*\[(.+)\]/g)];
  const ofSystem = /^(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)|ld-linux-x86-64)\.so/;
  const others = needed.map(([, name = ""]) => name).filter((name) => !ofSystem.test(name));
  expect(others.toSorted()).toEqual(LIBRARIES.toSorted());
});
