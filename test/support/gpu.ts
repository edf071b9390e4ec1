import { requireProvider } from "../../infra/gpu/provider.ts";
import { findRuntime } from "../../infra/gpu/runtime.ts";
import { cacheFolder } from "../../infra/settings.ts";

/**
 * Whether this process can compute on a GPU: the dynamic loader read LD_LIBRARY_PATH when it started, so that must have named
 * the provider's folder by then (`start.sh --tests` of a bundle sees to it).
 */
export async function haveGpu(): Promise<boolean> {
  const folder = findRuntime(cacheFolder())?.libraryFolder;
  const isNamed = (process.env["LD_LIBRARY_PATH"] ?? "").split(":").some((each) => each === folder);
  if (!isNamed) return false;
  try {
    await requireProvider("cuda");
    return true;
  } catch {
    return false;
  }
}
