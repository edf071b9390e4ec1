import { RallyError } from "../../infra/errors.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { setUpRuntime } from "../../infra/gpu/setup.ts";
import { cacheFolder } from "../../infra/settings.ts";
import type { Command, CommandContext } from "./command.ts";
import { parseFlags, switchFlag } from "./flags.ts";

const flags = {
  json: switchFlag("print one JSON object: {version, source, fetched, libraries, headers}"),
};

export const gpuCommand: Command = {
  name: "gpu",
  summary: "fetch what --provider cuda needs besides NVIDIA's own software",
  usage: "setup [flags]",
  description: `"rally gpu setup" fetches ONNX Runtime's CUDA provider (about 200 MB) and C headers
into the cache folder, checked against their SHA-256: its official release, or
npm packages of the same build where that cannot be reached. What is there
already, whole and right, is not fetched again, and a fetch that was interrupted
goes on where it was.

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
  terminal.done();
  const { version, source, libraryFolder: libraries, headerFolder: headers } = runtime;
  if (values.json) terminal.write(`${JSON.stringify({ version, source, fetched, libraries, headers })}\n`);
  else {
    const told = fetched ? `fetched (${source})` : `there already (${source})`;
    terminal.write(`ONNX Runtime ${version}, CUDA provider: ${told}\n${libraries}\n`);
  }
  return 0;
}
