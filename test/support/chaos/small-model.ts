import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { packageRoot } from "../../../infra/own-file.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../random-checkpoint.ts";

/** A model that is fast rather than wise, in a folder of its own. */
export function writeSmallModel(): { readonly modelDir: string; remove(): void } {
  const modelDir = mkdtempSync(path.join(os.tmpdir(), "rally-model-"));
  writeRandomCheckpoint(modelDir, { ...SMALL_MODEL, vocab_size: 4096 }, { seed: 3 });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(path.join(packageRoot, "models/step3-tiny", name), path.join(modelDir, name));
  }
  return { modelDir, remove: () => rmSync(modelDir, { recursive: true, force: true }) };
}
