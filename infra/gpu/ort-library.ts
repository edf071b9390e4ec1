import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { packageRoot } from "../own-file.ts";

/** The library's name as its users know it. */
export const ORT_LIBRARY = "libonnxruntime.so.1";

/** The ONNX Runtime that onnxruntime-node brings, without loading it. */
export function installedOrt(): { readonly version: string; readonly library: string } {
  const { resolve } = createRequire(path.join(packageRoot, "package.json"));
  const folder = path.join(path.dirname(resolve("onnxruntime-node")), "..");
  const { version } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")) as { version: string };
  return { version, library: path.join(folder, "bin/napi-v6", process.platform, process.arch, ORT_LIBRARY) };
}
