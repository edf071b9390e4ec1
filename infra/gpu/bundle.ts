import { chmod, copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { writeError } from "../download.ts";
import { packageRoot } from "../own-file.ts";
import { inScratch } from "../scratch.ts";
import { archiveLayer, hashOf, type Part, stageLayer } from "./bundle-archive.ts";
import { appLayer, baseLayer, type BundleEntry, type BundleSources, testsLayer } from "./bundle-layers.ts";

const SUMS = "SHA256SUMS";
const START = "start.sh";
/** A part's name tells its layer and the hash of the layer's content. */
const PART = /^(?:base|app|tests)-[0-9a-f]{16}\.tar\.xz\.\d\d+$/;

export interface BundleOptions {
  readonly sources: BundleSources;
  /** Files of others in it are left alone. */
  readonly outDir: string;
  readonly partBytes: number;
  /** Whether the host is to run the tests, too. */
  readonly withTests: boolean;
  readonly progress: (text: string) => void;
}

export interface Bundle {
  readonly parts: readonly Part[];
  /** Every file of it: parts, their SHA-256, the script that starts it. */
  readonly files: readonly string[];
}

/**
 * Writes everything that a GPU host without internet needs: the parts of its layers, of which the large one changes seldom, their
 * SHA-256, and the script that joins, verifies and starts them. A layer that is there already with this very content is kept.
 */
export async function makeBundle(options: BundleOptions): Promise<Bundle> {
  const { sources, outDir, withTests } = options;
  try {
    await mkdir(outDir, { recursive: true });
    const parts = [
      ...(await makeLayer("base", baseLayer(sources), options)),
      ...(await makeLayer("app", appLayer(sources), options)),
      ...(withTests ? await makeLayer("tests", testsLayer(sources), options) : []),
    ];
    await writeFile(path.join(outDir, SUMS), parts.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join(""));
    await copyFile(path.join(packageRoot, "infra/gpu/bundle-start.sh"), path.join(outDir, START));
    await chmod(path.join(outDir, START), 0o755);
    const files = [...parts.map(({ name }) => name), SUMS, START];
    for (const name of await readdir(outDir)) {
      if (PART.test(name) && !files.includes(name)) await rm(path.join(outDir, name));
    }
    return { parts, files };
  } catch (thrown) {
    throw writeError(thrown, outDir);
  }
}

async function makeLayer(layer: string, entries: BundleEntry[], options: BundleOptions): Promise<readonly Part[]> {
  const { outDir, partBytes, progress } = options;
  return await inScratch(outDir, async (scratch) => {
    progress(`${layer}: collecting ${entries.length} files`);
    const [stage, made] = [path.join(scratch, "stage"), path.join(scratch, "made")];
    for (const folder of [stage, made]) await mkdir(folder);
    const name = `${layer}-${(await stageLayer(entries, stage)).slice(0, 16)}`;
    const kept = await keptParts(name, options);
    if (kept !== undefined) return kept;
    progress(`${layer}: compressing, which takes a while`);
    const parts = await archiveLayer(stage, name, made, partBytes);
    for (const part of parts) await rename(path.join(made, part.name), path.join(outDir, part.name));
    return parts;
  });
}

/** Undefined unless all of a layer is there, unharmed and cut as asked for. */
async function keptParts(layerName: string, { outDir, partBytes }: BundleOptions): Promise<Part[] | undefined> {
  const parts: Part[] = [];
  try {
    const lines = (await readFile(path.join(outDir, SUMS), "utf8")).split("\n");
    for (const line of lines) {
      const [sha256 = "", name = ""] = line.split("  ");
      if (!name.startsWith(`${layerName}.`)) continue;
      const file = path.join(outDir, name);
      if ((await hashOf(file)) !== sha256) return undefined;
      parts.push({ name, sha256, bytes: (await stat(file)).size });
    }
  } catch {
    // Nothing was made there before, or not all of it is left.
    return undefined;
  }
  const isAsAsked = parts.every(({ bytes }, i) => (i < parts.length - 1 ? bytes === partBytes : bytes <= partBytes));
  return parts.length > 0 && isAsAsked ? parts : undefined;
}
