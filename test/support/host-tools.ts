import { execFileSync } from "node:child_process";

/** Runs one of the system's own tools; throws if it fails. */
export function tool(name: string, ...args: readonly string[]): void {
  execFileSync(name, args, { stdio: "ignore" });
}

export function canRun(...command: readonly [string, ...string[]]): boolean {
  try {
    tool(...command);
    return true;
  } catch {
    return false;
  }
}
