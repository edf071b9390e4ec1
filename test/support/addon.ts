import { buildAddon } from "../../infra/native/build.ts";
import { findRuntime, type GpuRuntime } from "../../infra/gpu/runtime.ts";
import { cacheFolder } from "../../infra/settings.ts";

/** What `rally gpu setup` has fetched on this machine, if it was ever run: without its headers nothing can be compiled. */
export const runtime: GpuRuntime | undefined = findRuntime(cacheFolder());

/** Builds the addon from the sources as they are now. Whether there is one. */
export async function haveAddon(): Promise<boolean> {
  if (runtime === undefined) return false;
  const { headerFolder } = runtime;
  await buildAddon({ cacheDir: cacheFolder(), headerFolder, env: process.env, progress: () => undefined });
  return true;
}
