import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "../../../infra/own-file.ts";
import { HOPPER_ONLY } from "../../../models/kernels/build.ts";

const HEADERS = ["/usr/local/cuda/include", "/usr/local/cuda-13.0/include", "/usr/include"];

/** The folder of CUDA's own headers: the twin has its number types from them, and needs nothing else of CUDA. */
export function findCudaHeaders(): string | undefined {
  return HEADERS.find((folder) => existsSync(path.join(folder, "cuda_fp8.h")));
}

/** The operators as they are, over the kernels' slow twins on the CPU, as a library in `folder`. */
export function buildTwin(
  folder: string,
  ortHeaders: string,
  cudaHeaders: string,
  kind: "hopper" | "f32" = "hopper",
): string {
  const kernels = path.join(packageRoot, "models", "kernels");
  const twin = path.join(packageRoot, "test", "kernels", "twin");
  const left = [...OF_CUDA, ...(kind === "f32" ? HOPPER_ONLY : [])];
  const operators = sources(path.join(kernels, "ops")).filter((file) => !left.includes(path.basename(file)));
  const twins = kind === "f32" ? ["host.cc", "f32.cc"].map((name) => path.join(twin, name)) : sources(twin);
  if (kind === "f32") operators.push(...sources(path.join(kernels, "f32")));
  const flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"];
  const includes = ["-isystem", ortHeaders, "-isystem", cudaHeaders, "-I", kernels];
  const library = path.join(folder, "librally_twin.so");
  const link = ["-Wl,--no-undefined", "-o", library];
  execFileSync("c++", [...flags, ...includes, ...operators, ...twins, ...link], { stdio: "inherit" });
  return library;
}

/** What says that the operators are CUDA's. */
const OF_CUDA = ["provider.cc"];

function sources(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(".cc"))
    .map((name) => path.join(folder, name));
}
