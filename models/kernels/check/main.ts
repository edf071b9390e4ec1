import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { RallyError } from "../../../infra/errors.ts";
import { cacheFolder } from "../../../infra/settings.ts";
import { requireKernels } from "../build.ts";
import { checkKernels } from "./check-kernels.ts";

/**
 * `node dist/models/kernels/check/main.js`: every operator on this machine's GPU against float64, first by itself, then replayed as a
 * CUDA graph. Exit status 1 if one is wrong. LD_LIBRARY_PATH as `rally up --provider cuda` has it.
 */
const folder = mkdtempSync(path.join(tmpdir(), "rally-kernels-"));
try {
  const library = requireKernels(cacheFolder());
  for (const { line, isRight } of checkKernels({ library, provider: "cuda", folder })) {
    (isRight ? process.stdout : process.stderr).write(`${line}\n`);
    if (!isRight) process.exitCode = 1;
  }
} catch (thrown) {
  process.stderr.write(`${RallyError.from(thrown).message}\n`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
