import path from "node:path";
import { packageRoot } from "../../infra/own-file.ts";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { Supervisor } from "../../actors/supervisor/supervisor.ts";
import { DEFAULT_TOPOLOGY, type Topology } from "../../actors/supervisor/topology.ts";

export const BUNDLED_MODEL = path.join(packageRoot, "models", "step3-tiny");

/** Real processes over a real nats-server, ended by `stop`. */
export interface TestDeployment {
  readonly supervisor: Supervisor;
  readonly client: RallyClient;
  readonly warnings: string[];
  stop(): Promise<void>;
}

export async function startDeployment(
  topology: Partial<Topology> = {},
  options: { readonly nats?: { readonly url: string }; readonly trace?: boolean } = {},
): Promise<TestDeployment> {
  const warnings: string[] = [];
  const whole: Topology = { ...DEFAULT_TOPOLOGY, modelDir: BUNDLED_MODEL, ...topology };
  const supervisor = new Supervisor({
    topology: whole,
    ...options,
    onEvent: (event) => {
      if (event.kind === "warning") warnings.push(`${event.source}: ${event.text}`);
      if (event.kind === "failed") warnings.push(`${event.source} failed: ${event.error.message}`);
    },
  });
  await supervisor.start();
  const client = await RallyClient.connect(supervisor.nats.settings, { deployment: whole.deployment });
  return {
    supervisor,
    client,
    warnings,
    async stop() {
      await client.close();
      await supervisor.stop({ drain: false });
    },
  };
}
