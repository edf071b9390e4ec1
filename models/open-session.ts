import { existsSync } from "node:fs";
import { addonFile } from "../infra/native/build.ts";
import { type NativeOptions, NativeSession } from "../infra/native/native-session.ts";
import { openOrtSession } from "../infra/ort-session.ts";
import type { OpenSession } from "../infra/session.ts";
import { cacheFolder } from "../infra/settings.ts";
import type { OpenOptions } from "./family.ts";
import { kernelsFile } from "./kernels/build.ts";

/** f32 is f32: by default ONNX Runtime lets matrix products on a GPU round their inputs to 10 bits. */
const CUDA_OPTIONS = { use_tf32: "0", arena_extend_strategy: "kSameAsRequested" };

/** How the graphs of a model are opened where `provider` computes and every tensor is in host memory. */
export function sessionOpener({ provider = "cpu" }: OpenOptions): OpenSession {
  if (provider === "cpu") return openOrtSession;
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

/**
 * How graphs are opened whose tensors stay on the GPU, or undefined where that cannot be: on the CPU as a matter of course, and on a
 * GPU without what `rally gpu setup` builds, of which `warn` is told.
 */
export function deviceOpener(
  { provider = "cpu", numThreads, warn = () => undefined }: OpenOptions,
  needs: { readonly kernels: boolean },
): ((graphFile: string) => NativeSession) | undefined {
  if (provider === "cpu") return undefined;
  const cacheDir = cacheFolder();
  if (!existsSync(addonFile(cacheDir))) {
    warn(
      "rally gpu setup has not built the native addon: onnxruntime-node computes on the GPU, and copies every tensor there and back",
    );
    return undefined;
  }
  const kernels = needs.kernels ? kernelsFile(cacheDir, "f32") : undefined;
  if (kernels !== undefined && !existsSync(kernels)) {
    warn(
      "rally gpu setup has not built the CUDA kernels: keys and values stay in host memory and are copied at each step",
    );
    return undefined;
  }
  const customOpLibraries = kernels === undefined ? [] : [kernels];
  return (graphFile) => openCudaSession(graphFile, { numThreads, cudaGraph: true, customOpLibraries });
}
