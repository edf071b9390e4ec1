import { readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { Bus, Subscription } from "../../infra/bus.ts";
import { packageRoot } from "../../infra/own-file.ts";
import type { AttentionSettings, ExpertSettings, RoleStats } from "./role.ts";
import { offerService, SERVICE_NAMES, type ServiceDescription, type ServiceStats } from "./service.ts";
import { subjectsOf } from "./subjects.ts";

/** Makes a role known to every NATS tool, with its sums. */
export function offerRole(
  bus: Bus,
  settings: AttentionSettings | ExpertSettings,
  started: Date,
  stats: () => Promise<RoleStats>,
): Subscription {
  return offerService(bus, describeRole(settings, started), async () => statsOfRole(await stats()));
}

export function describeRole(settings: AttentionSettings | ExpertSettings, started: Date): ServiceDescription {
  const { role, id, deployment } = settings;
  const subjects = subjectsOf(deployment, role === "expert" ? settings.epoch : undefined);
  const common = { deployment, host: os.hostname(), pid: String(process.pid) };
  return {
    name: SERVICE_NAMES[role],
    id,
    version: packageVersion(),
    started: started.toISOString(),
    ...(role === "attention"
      ? {
          description: "Rally attention actor: takes requests from the queue, writes tokens to the log",
          metadata: common,
          endpoint: { name: "requests", subject: subjects.request, queueGroup: "workers" },
        }
      : {
          description: "Rally expert actor: the feed-forward part of some experts",
          metadata: { ...common, shard: String(settings.shard), epoch: String(settings.epoch) },
          endpoint: { name: "ffn", subject: subjects.ffn(settings.shard), queueGroup: `shard-${settings.shard}` },
        }),
  };
}

function statsOfRole(data: RoleStats): ServiceStats {
  const numRequests = data.role === "attention" ? data.passes : data.batches;
  return { numRequests, numErrors: data.badMessages, processingMs: data.busyMs, data };
}

function packageVersion(): string {
  const manifest = JSON.parse(readFileSync(path.join(packageRoot, "package.json"), "utf8")) as { version: string };
  return manifest.version;
}
