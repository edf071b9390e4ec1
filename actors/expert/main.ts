import { systemClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { hashModel } from "../../models/load.ts";
import { checkModel, Placements } from "../protocol/placement.ts";
import type { Placement } from "../protocol/messages.ts";
import type { ExpertSettings } from "../protocol/role.ts";
import { type RoleProcess, type RunningRole, runRole } from "../protocol/role-process.ts";
import { offerRole } from "../protocol/role-service.ts";
import { RoleThread } from "../protocol/role-thread.ts";
import { subjectsOf } from "../protocol/subjects.ts";
import type { ExpertWorkerData, FromExpert, ToExpert } from "./expert-messages.ts";
import { Retirement } from "./retirement.ts";

async function start(settings: ExpertSettings, process: RoleProcess): Promise<RunningRole> {
  const { id, deployment, epoch, modelDir } = settings;
  const startedAt = new Date();
  const warn = (text: string) => process.report({ kind: "warning", text });
  const [nats, modelHash] = await Promise.all([
    connectNats(settings.nats, { name: `${id}-control` }),
    hashModel(modelDir),
  ]);
  const placements = await Placements.open(nats.durable, subjectsOf(deployment));
  const placement = await placements.withEpoch(epoch);
  if (placement === undefined) {
    throw new RallyError("stale-epoch", `placement ${epoch} has been followed by another`, { found: epoch });
  }
  checkModel(placement, modelHash);
  const data: ExpertWorkerData = { settings, spec: specOf(placement, settings.shard) };
  const thread = new RoleThread<ToExpert, FromExpert>("actors/expert/expert-worker", data, {
    progress: (text) => process.report({ kind: "progress", text }),
    warning: warn,
    failed: (error) => process.fail(error),
    message: () => undefined,
  });
  await thread.ready();
  const statsNow = async () => {
    const { stats } = await thread.ask({ kind: "stats" }, "stats");
    return { ...stats, rssBytes: globalThis.process.memoryUsage.rss() };
  };
  const retirement = new Retirement({
    clock: systemClock,
    epoch,
    numBatches: async () => (await statsNow()).batches,
    retire: (why) => process.retire(why),
  });
  const subscriptions = await Promise.all([
    placements.watch("current", (current) => changed(current), warn),
    placements.watch("next", (next) => retirement.placed("next", next.epoch), warn),
  ]);
  const service = offerRole(nats.bus, settings, startedAt, statsNow);

  function changed(current: Placement): void {
    retirement.placed("current", current.epoch);
    try {
      checkModel(current, modelHash);
    } catch (thrown) {
      process.fail(thrown);
    }
  }

  return {
    async drain() {
      for (const subscription of [service, ...subscriptions]) subscription.unsubscribe();
      retirement.close();
      await thread.close({ kind: "drain" });
      await nats.close();
    },
    stats: statsNow,
    trace: async () => (await thread.ask({ kind: "trace" }, "trace")).events,
  };
}

function specOf({ shards, sharedExperts }: Placement, shard: number): ExpertWorkerData["spec"] {
  const experts = shards[shard];
  if (experts === undefined) {
    throw new RallyError("bad-settings", `shard ${shard} of ${shards.length} does not exist`, {
      field: "shard",
      found: shard,
    });
  }
  return { shard, numShards: shards.length, experts, withoutShared: sharedExperts === "attention" };
}

await runRole<ExpertSettings>("expert", start);
