import { existsSync } from "node:fs";
import { addonFile } from "../infra/native/build.ts";
import { type NativeOptions, NativeSession } from "../infra/native/native-session.ts";
import { openOrtSession } from "../infra/ort-session.ts";
import type { OpenSession } from "../infra/session.ts";
import { cacheFolder } from "../infra/settings.ts";
import type { OpenOptions } from "./family.ts";
import { type KernelKind, kernelsFile } from "./kernels/build.ts";

/** f32 is f32: by default ONNX Runtime lets matrix products on a GPU round their inputs to 10 bits. */
const CUDA_OPTIONS = { use_tf32: "0", arena_extend_strategy: "kSameAsRequested" };

/** How the graphs of a model are opened where `provider` computes and every tensor is in host memory. */
export function sessionOpener({ provider = "cpu", cores }: OpenOptions): OpenSession {
  if (provider === "cpu") {
    if (cores === undefined) return openOrtSession;
    return (graphFile, options) => openOrtSession(graphFile, { ...options, cores });
  }
  if (existsSync(addonFile(cacheFolder()))) return openCudaSession;
  return (graphFile, options) => openOrtSession(graphFile, { ...options, provider });
}

/** A session on the GPU by our own addon. */
export function openCudaSession(
  graphFile: string,
  options: Pick<NativeOptions, "numThreads" | "cudaGraph" | "customOpLibraries">,
): NativeSession {
  return NativeSession.open(graphFile, { ...options, provider: "cuda", providerOptions: CUDA_OPTIONS });
}

/** Graphs are opened so that their tensors stay on the GPU. */
export interface DeviceOpener {
  readonly open: (graphFile: string) => NativeSession;
  /** The operators' library, if any were asked for. */
  readonly library: string | undefined;
}

/**
 * How graphs are opened whose tensors stay on the GPU, with the operators of `kernels` if given. Undefined where that cannot be: on the
 * CPU as a matter of course, and on a GPU without what `rally gpu setup` builds, of which `warn` is told.
 */
export function deviceOpener(
  { provider = "cpu", numThreads, warn = () => undefined }: OpenOptions,
  kernels?: KernelKind,
): DeviceOpener | undefined {
  if (provider === "cpu") return undefined;
  const cacheDir = cacheFolder();
  if (!existsSync(addonFile(cacheDir))) {
    warn(`rally gpu setup has not built the native addon: ${WITHOUT_ADDON}`);
    return undefined;
  }
  const library = kernels === undefined ? undefined : kernelsFile(cacheDir, kernels);
  if (kernels !== undefined && library !== undefined && !existsSync(library)) {
    warn(`rally gpu setup has not built the CUDA kernels (${kernels}): ${WITHOUT_KERNELS[kernels]}`);
    return undefined;
  }
  const customOpLibraries = library === undefined ? [] : [library];
  // Of ONNX Runtime's own operators some upload tables for each run, which a replay would read where they no longer are. The graphs
  // in FP8 have none of these; those in f32, which are there to be exact, run without capture.
  const cudaGraph = kernels === "hopper";
  return { library, open: (graphFile) => openCudaSession(graphFile, { numThreads, cudaGraph, customOpLibraries }) };
}

const WITHOUT_ADDON = "onnxruntime-node computes on the GPU, and copies every tensor there and back";
const WITHOUT_KERNELS: Readonly<Record<KernelKind, string>> = {
  hopper: "it computes in f32 instead of FP8",
  f32: "keys and values stay in host memory and are copied at each step",
};
