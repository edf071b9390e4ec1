import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { installedPackages } from "./lock-file.ts";
import { ORT_LIBRARY } from "./ort-library.ts";

/** A file of a bundle. `from` is where it is now; a `link` leads to another place of the bundle. */
export type BundleEntry =
  | { readonly target: string; readonly from: string; readonly strip?: boolean }
  | { readonly target: string; readonly link: string };

export interface BundleSources {
  /** Rally's own folder, built, with its node_modules. */
  readonly packageRoot: string;
  readonly node: string;
  readonly natsServer: string;
  /** ONNX Runtime and its CUDA provider, as `gpu setup` leaves them in the cache folder. */
  readonly runtimeFolder: string;
  /** Folders of the cache that are built from Rally's sources: the addon, the kernels. */
  readonly builtFolders: readonly string[];
}

/** What seldom changes, and is large: programs, libraries, packages, the bundled model. */
export function baseLayer({ packageRoot, node, natsServer, runtimeFolder }: BundleSources): BundleEntry[] {
  const runtime = `cache/${path.basename(runtimeFolder)}`;
  return [
    { target: "bin/node", from: node, strip: true },
    { target: "bin/nats-server", from: natsServer },
    ...folder(runtimeFolder, runtime),
    ...folder(path.join(packageRoot, "models/step3-tiny"), "models/step3-tiny"),
    ...packages(packageRoot, Object.keys(readPackage(packageRoot).dependencies)).map((entry) =>
      oneRuntime(entry, runtime),
    ),
  ];
}

/** What changes with each commit, and is small. It lies beside a folder, or link, `base`. */
export function appLayer({ packageRoot, builtFolders }: BundleSources): BundleEntry[] {
  return [
    { target: "package.json", from: path.join(packageRoot, "package.json") },
    ...folder(path.join(packageRoot, "dist"), "dist", isProgram),
    // What is built is named by the hash of its sources.
    ...["infra/native", "models/kernels"].flatMap((name) =>
      folder(path.join(packageRoot, name), name, (file) => /\.(cu|cc|h)$/.test(file)),
    ),
    ...folder(path.join(packageRoot, "test/chaos"), "test/chaos"),
    ...builtFolders.flatMap((built) => folder(built, `cache/${path.basename(built)}`)),
    { target: "node_modules", link: "../base/node_modules" },
    { target: "models/step3-tiny", link: "../../base/models/step3-tiny" },
  ];
}

/** The tests, their tool and what they import, beside folders `base` and `app`. */
export function testsLayer({ packageRoot }: BundleSources): BundleEntry[] {
  const files = ["package.json", "vitest.config.ts"];
  const production = installedPackages(packageRoot, Object.keys(readPackage(packageRoot).dependencies));
  const own = packages(packageRoot, ["vitest"]).filter(
    ({ target }) => !production.some((name) => target.startsWith(`${name}/`)),
  );
  return [
    ...files.map((name) => ({ target: name, from: path.join(packageRoot, name) })),
    ...["actors", "models", "infra", "test"].flatMap((name) => folder(path.join(packageRoot, name), name, isSource)),
    ...own,
    ...production.map((name) => ({ target: name, link: path.relative(path.dirname(name), `../base/${name}`) })),
    { target: "dist", link: "../app/dist" },
    { target: "models/step3-tiny", link: "../../base/models/step3-tiny" },
  ];
}

function readPackage(packageRoot: string): { readonly dependencies: Readonly<Record<string, string>> } {
  return JSON.parse(readFileSync(path.join(packageRoot, "package.json"), "utf8")) as ReturnType<typeof readPackage>;
}

function packages(packageRoot: string, names: readonly string[]): BundleEntry[] {
  return installedPackages(packageRoot, names).flatMap((name) => folder(path.join(packageRoot, name), name, isNeeded));
}

function folder(from: string, target: string, isWanted = (_name: string): boolean => true): BundleEntry[] {
  return readdirSync(from, { recursive: true, withFileTypes: true }).flatMap((found) => {
    const file = path.join(found.parentPath, found.name);
    const name = path.relative(from, file);
    // A link's file is taken: it may lead out of the folder.
    const isFile = found.isFile() || (found.isSymbolicLink() && statSync(file).isFile());
    return isFile && isWanted(name) ? [{ target: `${target}/${name}`, from: file }] : [];
  });
}

const isSource = (name: string) => !name.startsWith("step3-tiny/");
const isProgram = (name: string) => !/\.(d\.ts|map|tsbuildinfo)$/.test(name);

/** onnxruntime-node brings the libraries of all platforms. Packages nested in others are listed by themselves. */
function isNeeded(name: string): boolean {
  if (/(^|\/)node_modules\//.test(name) || !isProgram(name)) return false;
  return !name.startsWith("bin/napi-v6/") || name.startsWith(`bin/napi-v6/${process.platform}/${process.arch}/`);
}

/** The same library would otherwise travel twice. */
function oneRuntime(entry: BundleEntry, runtime: string): BundleEntry {
  const { target } = entry;
  if (path.basename(target) !== ORT_LIBRARY) return entry;
  return { target, link: path.relative(path.dirname(target), `${runtime}/lib/${ORT_LIBRARY}`) };
}
