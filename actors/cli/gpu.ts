import { RallyError, type WireError } from "../../infra/errors.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { setUpRuntime } from "../../infra/gpu/setup.ts";
import type { GpuRuntime } from "../../infra/gpu/runtime.ts";
import { buildAddon } from "../../infra/native/build.ts";
import { cacheFolder } from "../../infra/settings.ts";
import type { Command, CommandContext } from "./command.ts";
import { parseFlags, switchFlag } from "./flags.ts";

const flags = {
  json: switchFlag("print one JSON object: {version, source, fetched, libraries, headers, addon | addonError}"),
};

export const gpuCommand: Command = {
  name: "gpu",
  summary: "fetch what --provider cuda needs besides NVIDIA's own software",
  usage: "setup [flags]",
  description: `"rally gpu setup" fetches ONNX Runtime's CUDA provider (about 200 MB) and C headers
into the cache folder, checked against their SHA-256: its official release, or
npm packages of the same build where that cannot be reached. What is there
already, whole and right, is not fetched again, and a fetch that was interrupted
goes on where it was. Where there is a C++ compiler it then builds the native addon,
which keeps tensors on the GPU between runs; --provider cuda works without it.

NVIDIA's driver and CUDA 13 libraries are not Rally's to install; "rally doctor
--provider cuda" says which are missing and how to get them.`,
  examples: [["rally gpu setup", "once per machine; then rally up --provider cuda"]],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  if (positionals.length !== 1 || positionals[0] !== "setup") {
    const found = positionals.join(" ").slice(0, 60);
    throw new RallyError("bad-settings", `rally gpu knows setup only, found ${JSON.stringify(found)}`, { found });
  }
  const { terminal, env, interrupted } = context;
  const { runtime, fetched } = await setUpRuntime({
    cacheDir: cacheFolder(env),
    ortLibrary: installedOrt().library,
    env,
    progress: (text) => terminal.progress(text),
    signal: interrupted,
  });
  const addon = await addonOf(runtime, context);
  terminal.done();
  const { version, source, libraryFolder: libraries, headerFolder: headers } = runtime;
  if (values.json) terminal.write(`${JSON.stringify({ version, source, fetched, libraries, headers, ...addon })}\n`);
  else {
    const told = fetched ? `fetched (${source})` : `there already (${source})`;
    terminal.write(`ONNX Runtime ${version}, CUDA provider: ${told}\n  ${libraries}\n`);
    terminal.write("addon" in addon ? `native addon\n  ${addon.addon}\n` : `${addon.addonError.message}\n`);
  }
  return 0;
}

/** What was fetched is of use without the addon, so a machine that cannot build it is no failure. */
async function addonOf(
  { headerFolder }: GpuRuntime,
  { env, terminal }: CommandContext,
): Promise<{ readonly addon: string } | { readonly addonError: WireError }> {
  const progress = (text: string) => terminal.progress(text);
  try {
    return { addon: await buildAddon({ cacheDir: cacheFolder(env), headerFolder, env, progress }) };
  } catch (thrown) {
    return { addonError: RallyError.from(thrown).toWire() };
  }
}
