import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { RallyError } from "../../../infra/errors.ts";
import { cacheFolder } from "../../../infra/settings.ts";
import { requireKernels } from "../build.ts";
import { checkKernels } from "./check-kernels.ts";

/**
 * `node dist/models/kernels/check/main.js [library]`: every operator on this machine's GPU against float64, first by itself, then
 * replayed as a CUDA graph. Exit status 1 if one is wrong. LD_LIBRARY_PATH as `rally up --provider cuda` has it.
 */
const folder = mkdtempSync(path.join(tmpdir(), "rally-kernels-"));
try {
  const library = process.argv[2] ?? requireKernels(cacheFolder());
  const rows = checkKernels({ library, provider: "cuda", folder }, (line) => console.log(line));
  process.exitCode = rows.every(({ isRight }) => isRight) ? 0 : 1;
} catch (thrown) {
  console.error(RallyError.from(thrown).message);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
