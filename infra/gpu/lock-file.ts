import { readFileSync, statSync } from "node:fs";
import path from "node:path";

interface LockedPackage {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/**
 * Folders (`node_modules/NAME`) of packages and of all that they depend on, as package-lock.json has them. Optional ones that are
 * not installed, because they are another platform's, are left out.
 */
export function installedPackages(packageRoot: string, names: readonly string[]): string[] {
  const text = readFileSync(path.join(packageRoot, "package-lock.json"), "utf8");
  const { packages } = JSON.parse(text) as { readonly packages: Readonly<Record<string, LockedPackage>> };
  const isInstalled = (folder: string) => statSync(path.join(packageRoot, folder), { throwIfNoEntry: false });
  const found = new Set<string>();
  const add = (name: string, from: string) => {
    const folder = resolve(packages, name, from);
    if (folder === undefined || found.has(folder) || isInstalled(folder) === undefined) return;
    found.add(folder);
    const { dependencies = {}, optionalDependencies = {} } = packages[folder] ?? {};
    for (const needed of Object.keys({ ...dependencies, ...optionalDependencies })) add(needed, folder);
  };
  for (const name of names) add(name, "");
  return [...found].toSorted();
}

/** The nearest node_modules above wins. */
function resolve(packages: Readonly<Record<string, unknown>>, name: string, from: string): string | undefined {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf("/node_modules/")))) {
    const candidate = folder === "" ? `node_modules/${name}` : `${folder}/node_modules/${name}`;
    if (candidate in packages) return candidate;
    if (folder === "") return undefined;
  }
}
