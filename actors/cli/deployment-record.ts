import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../../infra/errors.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { dataFolder } from "../../infra/settings.ts";
import { checkName } from "../protocol/subjects.ts";
import { isRunning, ownIdentity } from "../supervisor/process-identity.ts";
import { storeError } from "../supervisor/store-folder.ts";
import type { ServingTopology } from "./serving-topology.ts";

/** What `rally up` leaves for other commands on this machine while it runs. */
export interface DeploymentRecord {
  readonly pid: number;
  /** Tells this process from a later one with the same pid. */
  readonly startedAs: string;
  /** Missing until the deployment is ready. */
  readonly ready?: { readonly nats: NatsSettings; readonly topology: ServingTopology };
}

/** The folder of a deployment: its record and, unless told otherwise, its store. */
export function deploymentFolder(env: NodeJS.ProcessEnv, deployment: string): string {
  return path.join(dataFolder(env), checkName("deployment", deployment));
}

/** The record of a deployment that runs now; one whose process is gone counts as none. */
export function readRecord(folder: string): DeploymentRecord | undefined {
  try {
    const record = JSON.parse(readFileSync(recordFile(folder), "utf8")) as DeploymentRecord;
    return isRunning(record) ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Makes the deployment this process' own. RallyError `bad-settings` if another process on this machine has it. */
export function claimRecord(folder: string): void {
  const holder = readRecord(folder);
  if (holder !== undefined && holder.pid !== process.pid) {
    throw new RallyError(
      "bad-settings",
      `deployment ${path.basename(folder)} is already up, as process ${holder.pid}: end that (kill ${holder.pid}) or give another --deployment`,
      { field: "--deployment", pid: holder.pid },
    );
  }
  try {
    writeRecord(folder, {});
  } catch (thrown) {
    throw storeError(thrown, folder);
  }
}

export function writeRecord(folder: string, record: Pick<DeploymentRecord, "ready">): void {
  mkdirSync(folder, { recursive: true });
  const { pid, startedAs } = ownIdentity();
  const complete: DeploymentRecord = { pid, startedAs, ...record };
  // Only for us: a URL may carry a password. Renamed, so that a reader sees the whole of it.
  const draft = `${recordFile(folder)}.${process.pid}`;
  writeFileSync(draft, JSON.stringify(complete), { mode: 0o600 });
  renameSync(draft, recordFile(folder));
}

export function removeRecord(folder: string): void {
  rmSync(recordFile(folder), { force: true });
}

function recordFile(folder: string): string {
  return path.join(folder, "deployment.json");
}
