import { RallyError, type WireError } from "../../infra/errors.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { setUpRuntime } from "../../infra/gpu/setup.ts";
import type { GpuRuntime } from "../../infra/gpu/runtime.ts";
import { buildAddon } from "../../infra/native/build.ts";
import { cacheFolder } from "../../infra/settings.ts";
import { buildAllKernels } from "../../models/kernels/build.ts";
import type { Command, CommandContext } from "./command.ts";
import { parseFlags, switchFlag } from "./flags.ts";

const flags = {
  json: switchFlag(
    "print one JSON object: {version, source, fetched, libraries, headers, addon | addonError, kernels | kernelsError}",
  ),
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
which keeps tensors on the GPU between runs, and where there is CUDA's compiler nvcc
the CUDA kernels for H100s; --provider cuda works without both.

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
  const addon = await attempt("addon", buildAddon, runtime, context);
  const kernels = await attempt("kernels", buildAllKernels, runtime, context);
  terminal.done();
  const { version, source, libraryFolder: libraries, headerFolder: headers } = runtime;
  if (values.json)
    terminal.write(`${JSON.stringify({ version, source, fetched, libraries, headers, ...addon, ...kernels })}\n`);
  else {
    const told = fetched ? `fetched (${source})` : `there already (${source})`;
    terminal.write(`ONNX Runtime ${version}, CUDA provider: ${told}\n  ${libraries}\n`);
    terminal.write(`native addon: ${describe(addon)}\nCUDA kernels: ${describe(kernels)}\n`);
  }
  return 0;
}

type Built<Name extends string> = { readonly [key in Name]: string } | { readonly [key in `${Name}Error`]: WireError };

/** What was fetched is of use without what can be built, so a machine that cannot build is no failure. */
async function attempt<Name extends string>(
  name: Name,
  build: typeof buildAddon,
  { headerFolder }: GpuRuntime,
  { env, terminal }: CommandContext,
): Promise<Built<Name>> {
  const progress = (text: string) => terminal.progress(text);
  try {
    return { [name]: await build({ cacheDir: cacheFolder(env), headerFolder, env, progress }) } as Built<Name>;
  } catch (thrown) {
    return { [`${name}Error`]: RallyError.from(thrown).toWire() } as Built<Name>;
  }
}

function describe(built: Built<string>): string {
  const [found] = Object.values<string | WireError>(built);
  return typeof found === "string" ? `\n  ${found}` : (found?.message ?? "");
}
