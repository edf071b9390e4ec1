import path from "node:path";
import { parseArgs } from "node:util";
import { megabytes } from "../../infra/download.ts";
import { RallyError } from "../../infra/errors.ts";
import { buildAddon } from "../../infra/native/build.ts";
import { findNatsServer } from "../../infra/nats-server.ts";
import { packageRoot } from "../../infra/own-file.ts";
import { cacheFolder } from "../../infra/settings.ts";
import { buildKernels, KERNEL_KINDS } from "../../models/kernels/build.ts";
import { makeBundle } from "../../infra/gpu/bundle.ts";
import { parsePartSize } from "../../infra/gpu/bundle-part-size.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { runtimeFolder } from "../../infra/gpu/runtime.ts";
import { setUpRuntime } from "../../infra/gpu/setup.ts";

const USAGE = `npm run gpu:bundle -- --out DIR [--part-size 60M] [--with-tests]

Puts into DIR what a GPU host without internet needs, in parts no larger than
said (K, M or G: 1024 each), and start.sh, which joins, verifies and starts it.
Fetches ONNX Runtime's CUDA provider and nats-server first if they are not in the
cache folder, and builds addon and kernels. With the tests, on the host:

  ./start.sh --tests test/e2e/gpu.test.ts`;

try {
  await main();
} catch (thrown) {
  process.stderr.write(`${RallyError.from(thrown).message}\n`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { out, partSize, withTests } = readArguments();
  const { env } = process;
  const cacheDir = cacheFolder(env);
  const progress = (text: string) => void process.stderr.write(`${text}\n`);
  const { runtime } = await setUpRuntime({ cacheDir, ortLibrary: installedOrt().library, env, progress });
  const build = { cacheDir, headerFolder: runtime.headerFolder, env, progress };
  const kernels = await Promise.all(KERNEL_KINDS.map((kind) => buildKernels(build, kind)));
  const built = [await buildAddon(build), ...kernels];
  const natsServer = await findNatsServer({ env, progress });
  const sources = {
    packageRoot,
    node: process.execPath,
    natsServer: natsServer.path,
    runtimeFolder: runtimeFolder(cacheDir),
    builtFolders: built.map((file) => path.dirname(file)),
  };
  const { parts } = await makeBundle({ sources, outDir: out, partBytes: partSize, withTests, progress });
  for (const { name, bytes } of parts) process.stdout.write(`${name}  ${megabytes(bytes)} MB\n`);
  process.stdout.write(`on the host: ${path.join(out, "start.sh")} doctor --provider cuda\n`);
}

function readArguments(): { readonly out: string; readonly partSize: number; readonly withTests: boolean } {
  try {
    const { values } = parseArgs({
      options: {
        out: { type: "string" },
        "part-size": { type: "string", default: "60M" },
        "with-tests": { type: "boolean", default: false },
      },
    });
    if (values.out === undefined) throw new Error("--out is missing");
    return {
      out: path.resolve(values.out),
      partSize: parsePartSize(values["part-size"]),
      withTests: values["with-tests"],
    };
  } catch (cause) {
    throw new RallyError("bad-settings", `${RallyError.from(cause).message}\n\n${USAGE}`, {}, { cause });
  }
}
