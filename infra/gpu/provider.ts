import path from "node:path";
import { RallyError } from "../errors.ts";
import type { Provider } from "../session.ts";
import { cacheFolder } from "../settings.ts";
import { findLibraries, type FoundLibrary, systemLibraryPorts, type LibraryPorts } from "./cuda-libraries.ts";
import { findNvidia, type Gpu, type Nvidia } from "./nvidia.ts";
import { CUDA_LIBRARIES, DRIVER_LIBRARY, OLDEST_COMPUTE_CAPABILITY, OLDEST_DRIVER, PINNED_RUNTIME } from "./pins.ts";
import { findRuntime } from "./runtime.ts";

/** One thing that the CUDA provider needs. */
export interface Need {
  readonly name: string;
  readonly found: string;
  /** How to get it; left out when it is there. */
  readonly advice?: string;
}

export interface CudaPorts {
  readonly env: NodeJS.ProcessEnv;
  readonly nvidia: () => Promise<Nvidia>;
  readonly libraries: LibraryPorts;
}

export function systemCudaPorts(env: NodeJS.ProcessEnv): CudaPorts {
  return { env, nvidia: () => findNvidia(), libraries: systemLibraryPorts(env) };
}

/** What the CUDA provider needs, in the order in which one would see to it. */
export async function inspectCuda(ports: CudaPorts): Promise<readonly Need[]> {
  const { driver, gpus } = await ports.nvidia();
  const found = findLibraries([...CUDA_LIBRARIES, DRIVER_LIBRARY], ports.libraries);
  return [checkDriver(driver, found), checkGpus(gpus, driver), checkLibraries(found), checkRuntime(ports.env)];
}

/** RallyError `provider-unavailable`, which names everything that is missing, if `provider` cannot compute on this machine. */
export async function requireProvider(provider: Provider, ports = systemCudaPorts(process.env)): Promise<void> {
  if (provider === "cpu") return;
  const missing = (await inspectCuda(ports)).filter(({ advice }) => advice !== undefined);
  if (missing.length === 0) return;
  throw new RallyError(
    "provider-unavailable",
    [
      `provider ${provider} cannot be used on this machine:`,
      ...missing.map(({ name, found, advice }) => `  - ${name}: ${found}. ${advice}`),
      "rally doctor --provider cuda checks again; --provider cpu needs none of it",
    ].join("\n"),
    { provider, missing: missing.map(({ name }) => name).join(", ") },
  );
}

/**
 * The environment that a process must be started with to compute on `provider`: the dynamic loader reads LD_LIBRARY_PATH once.
 * Its first folder gives onnxruntime-node the ONNX Runtime that has the CUDA provider beside it.
 */
export function withProvider(provider: Provider, env: Readonly<NodeJS.ProcessEnv>): NodeJS.ProcessEnv {
  if (provider === "cpu") return { ...env };
  const runtime = findRuntime(cacheFolder(env));
  const found = findLibraries(CUDA_LIBRARIES, systemLibraryPorts(env));
  const folders = [
    ...(runtime === undefined ? [] : [runtime.libraryFolder]),
    ...found.filter(({ isKnown }) => !isKnown).map(({ file }) => path.dirname(file)),
    ...(env["LD_LIBRARY_PATH"] ?? "").split(":"),
  ];
  return {
    ...env,
    LD_LIBRARY_PATH: [...new Set(folders)].filter((folder) => folder !== "").join(":"),
    // f32 is f32, whoever opens the session: cuBLAS would round the inputs of matrix products to 10 bits.
    NVIDIA_TF32_OVERRIDE: "0",
  };
}

function checkDriver(driver: Nvidia["driver"], libraries: readonly FoundLibrary[]): Need {
  const name = "NVIDIA driver";
  const advice = `install NVIDIA's driver ${OLDEST_DRIVER} or newer (https://developer.nvidia.com/cuda-downloads); start a container with its GPUs (--gpus all)`;
  if (driver === undefined) return { name, found: "none", advice };
  const library = libraries.find((each) => each.name === DRIVER_LIBRARY);
  const found = `${driver.version} (${driver.source})${library === undefined ? `, but no ${DRIVER_LIBRARY}` : `, ${library.file}`}`;
  const isNew = Number.parseInt(driver.version, 10) >= OLDEST_DRIVER;
  return isNew && library !== undefined ? { name, found } : { name, found, advice };
}

function checkGpus(gpus: readonly Gpu[], driver: Nvidia["driver"]): Need {
  const name = "GPU";
  if (gpus.length === 0) {
    const advice = driver === undefined ? "the driver, above, would show one" : "nvidia-smi shows what the driver sees";
    return { name, found: "none", advice };
  }
  const found = gpus.map(describeGpu).join("; ");
  const isOld = gpus.every(({ computeCapability: capability = Infinity }) => capability < OLDEST_COMPUTE_CAPABILITY);
  if (!isOld) return { name, found };
  return { name, found, advice: `CUDA 13 needs compute capability ${OLDEST_COMPUTE_CAPABILITY} or more` };
}

function describeGpu({ name, computeCapability, memoryMiB }: Gpu): string {
  const capability = computeCapability === undefined ? "" : `, compute capability ${computeCapability.toFixed(1)}`;
  return `${name}${capability}${memoryMiB === undefined ? "" : `, ${memoryMiB} MiB`}`;
}

function checkLibraries(libraries: readonly FoundLibrary[]): Need {
  const name = "CUDA 13 libraries";
  const found = CUDA_LIBRARIES.flatMap((each) => libraries.find((library) => library.name === each)?.file ?? []);
  const missing = CUDA_LIBRARIES.filter((each) => !libraries.some((library) => library.name === each));
  const there = found.length === 0 ? "none" : found.join(", ");
  if (missing.length === 0) return { name, found: there };
  const packages = [...new Set(missing.map((each) => PACKAGES[each]))];
  const advice =
    `install them, with NVIDIA's repository: apt-get install ${packages.map(({ apt }) => apt).join(" ")}; ` +
    `or anywhere: pip install ${packages.map(({ pip }) => pip).join(" ")}; or name their folder in LD_LIBRARY_PATH`;
  return { name, found: `${missing.join(", ")} missing; found: ${there}`, advice };
}

const CUBLAS = { apt: "libcublas-13-0", pip: "nvidia-cublas" };
const PACKAGES: Readonly<Record<(typeof CUDA_LIBRARIES)[number], { readonly apt: string; readonly pip: string }>> = {
  "libcudart.so.13": { apt: "cuda-cudart-13-0", pip: "nvidia-cuda-runtime" },
  "libcublas.so.13": CUBLAS,
  "libcublasLt.so.13": CUBLAS,
  "libcurand.so.10": { apt: "libcurand-13-0", pip: "nvidia-curand" },
};

function checkRuntime(env: NodeJS.ProcessEnv): Need {
  const name = "CUDA provider";
  const advice = "rally gpu setup fetches it";
  try {
    const runtime = findRuntime(cacheFolder(env));
    if (runtime === undefined) return { name, found: `ONNX Runtime ${PINNED_RUNTIME.version}'s is not there`, advice };
    return { name, found: `ONNX Runtime ${runtime.version}, ${runtime.libraryFolder} (${runtime.source})` };
  } catch (thrown) {
    return { name, found: RallyError.from(thrown).message, advice };
  }
}
