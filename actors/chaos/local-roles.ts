import { readdirSync, readFileSync } from "node:fs";
import type { RoleSettings } from "../protocol/role.ts";

/** A role's process on this machine, as its environment tells it. Linux only; elsewhere none is found. */
export interface LocalRole {
  readonly pid: number;
  readonly settings: Pick<RoleSettings, "id" | "role"> & { readonly shard?: number };
}

/** The processes of this user that serve a deployment, in the order of their ids. */
export function localRoles(deployment: string, procFolder = "/proc"): LocalRole[] {
  const roles: LocalRole[] = [];
  for (const name of folders(procFolder)) {
    const settings = settingsIn(environmentOf(`${procFolder}/${name}/environ`));
    if (settings?.deployment === deployment) roles.push({ pid: Number(name), settings });
  }
  return roles.sort((a, b) => (a.settings.id < b.settings.id ? -1 : 1));
}

function folders(procFolder: string): string[] {
  try {
    return readdirSync(procFolder).filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
}

/** Only of our own processes; others cannot be read. */
function environmentOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function settingsIn(environment: string): (LocalRole["settings"] & { readonly deployment: string }) | undefined {
  const text = /(?:^|\0)RALLY_ROLE=([^\0]*)/.exec(environment)?.[1];
  if (text === undefined) return undefined;
  try {
    const settings = JSON.parse(text) as Partial<RoleSettings>;
    const { id, role, deployment } = settings;
    if (id === undefined || role === undefined || deployment === undefined) return undefined;
    return { id, role, deployment, ...(settings.role === "expert" && { shard: settings.shard ?? 0 }) };
  } catch {
    return undefined;
  }
}
