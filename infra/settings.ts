import os from "node:os";
import path from "node:path";

/** What can be made again: a fetched nats-server, graphs written from weights. $XDG_CACHE_HOME/rally, else ~/.cache/rally. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return folder(env, "XDG_CACHE_HOME", ".cache");
}

/** What must be kept: the stores of deployments. $XDG_DATA_HOME/rally, else ~/.local/share/rally. */
export function dataFolder(env: NodeJS.ProcessEnv = process.env): string {
  return folder(env, "XDG_DATA_HOME", ".local/share");
}

function folder(env: NodeJS.ProcessEnv, variable: string, fallback: string): string {
  const base = env[variable];
  // The XDG specification has relative paths ignored.
  const isUsable = base !== undefined && path.isAbsolute(base);
  return path.join(isUsable ? base : path.join(env["HOME"] ?? os.homedir(), fallback), "rally");
}
