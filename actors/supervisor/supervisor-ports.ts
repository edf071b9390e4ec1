import { randomBytes } from "node:crypto";
import { type Clock, systemClock } from "../../infra/clock.ts";
import { requireProvider } from "../../infra/gpu/provider.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { startNatsServer } from "../../infra/nats-server.ts";
import { hashModel, loadConfig } from "../../models/load.ts";
import { forkLauncher, type Launch } from "./launch.ts";
import { type StoreFolder, storeFolder } from "./store-folder.ts";

/** What the supervisor asks of the world. */
export interface SupervisorPorts {
  readonly clock: Clock;
  readonly newSuffix: () => string;
  readonly launch: Launch;
  readonly connect: typeof connectNats;
  readonly startServer: typeof startNatsServer;
  readonly folder: StoreFolder;
  readonly kill: (pid: number, signal: "SIGTERM" | "SIGKILL") => void;
  readonly requireProvider: typeof requireProvider;
  readonly describeModel: (modelDir: string) => Promise<ModelDescription>;
}

export interface ModelDescription {
  readonly modelHash: string;
  readonly numExperts: number;
}

export function defaultPorts(): SupervisorPorts {
  return {
    clock: systemClock,
    newSuffix: () => randomBytes(4).toString("hex"),
    launch: forkLauncher(),
    connect: connectNats,
    startServer: startNatsServer,
    folder: storeFolder,
    kill(pid, signal) {
      try {
        process.kill(pid, signal);
      } catch {
        // It has ended in the meantime.
      }
    },
    requireProvider,
    async describeModel(modelDir) {
      const [{ numExperts }, modelHash] = await Promise.all([loadConfig(modelDir), hashModel(modelDir)]);
      return { modelHash, numExperts };
    },
  };
}
