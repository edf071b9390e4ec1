import { existsSync } from "node:fs";
import { addonFile } from "../infra/native/build.ts";
import { NativeSession } from "../infra/native/native-session.ts";
import { openOrtSession } from "../infra/ort-session.ts";
import type { OpenSession } from "../infra/session.ts";
import { cacheFolder } from "../infra/settings.ts";
import type { OpenOptions } from "./family.ts";

/** f32 is f32: by default ONNX Runtime lets matrix products on a GPU round their inputs to 10 bits. */
const CUDA_OPTIONS = { use_tf32: "0", arena_extend_strategy: "kSameAsRequested" };

/** How the graphs of a model are opened where `provider` computes. */
export function sessionOpener({ provider = "cpu", warn = () => undefined }: OpenOptions): OpenSession {
  if (provider === "cpu") return openOrtSession;
  if (hasAddon()) return openCudaSession;
  warn(
    "rally gpu setup has not built the native addon: onnxruntime-node computes on the GPU, and copies every tensor there and back",
  );
  return (graphFile, options) => openOrtSession(graphFile, { ...options, provider });
}

/** Whether the addon was built, from the sources as they are. */
function hasAddon(env: NodeJS.ProcessEnv = process.env): boolean {
  return existsSync(addonFile(cacheFolder(env)));
}

/** A session on the GPU by our own addon. */
export function openCudaSession(graphFile: string, { numThreads }: Parameters<OpenSession>[1]): NativeSession {
  return NativeSession.open(graphFile, { numThreads, provider: "cuda", providerOptions: CUDA_OPTIONS });
}
