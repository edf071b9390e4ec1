import { connectNats } from "../../infra/nats-connect.ts";
import { hashModel } from "../../models/load.ts";
import { watchPlacement } from "../protocol/placement.ts";
import type { ExpertSettings } from "../protocol/role.ts";
import { type RoleProcess, type RunningRole, runRole } from "../protocol/role-process.ts";
import { RoleThread } from "../protocol/role-thread.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import type { FromExpert, ToExpert } from "./expert-messages.ts";

async function start(settings: ExpertSettings, process: RoleProcess): Promise<RunningRole> {
  const warn = (text: string) => process.report({ kind: "warning", text });
  const thread = new RoleThread<ToExpert, FromExpert>("actors/expert/expert-worker", settings, {
    progress: (text) => process.report({ kind: "progress", text }),
    warning: warn,
    failed: (error) => process.fail(error),
    message: () => undefined,
  });
  const [nats, modelHash] = await Promise.all([
    connectNats(settings.nats, { name: `${settings.id}-control` }),
    hashModel(settings.modelDir),
    thread.ready(),
  ]);
  const placement = await watchPlacement(nats.durable, subjectsOf(settings.deployment), {
    modelHash,
    changed: ({ epoch }) => thread.post({ kind: "epoch", epoch }),
    warn,
    mismatch: (error) => process.fail(error),
  });
  return {
    async drain() {
      placement.unsubscribe();
      await thread.close({ kind: "drain" });
      await nats.close();
    },
    async stats() {
      const { stats } = await thread.ask({ kind: "stats" }, "stats");
      return { ...stats, rssBytes: globalThis.process.memoryUsage.rss() };
    },
    trace: async () => (await thread.ask({ kind: "trace" }, "trace")).events,
  };
}

await runRole<ExpertSettings>("expert", start);
