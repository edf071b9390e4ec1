import { RallyClient } from "../../client/rally-client.ts";
import type { NatsSettings } from "../../../infra/nats-settings.ts";
import type { AttentionSettings, RoleStats } from "../../protocol/role.ts";
import { Supervisor } from "../../supervisor/supervisor.ts";
import { attentionSlots, type Topology } from "../../supervisor/topology.ts";
import { afdRound } from "./afd.ts";
import { type Figures, figuresOfRounds, type TokenTimes } from "./figures.ts";
import { Monolith } from "./monolith.ts";
import { type Shares, sharesBetween } from "./shares.ts";
import type { BenchRequest } from "./workload.ts";

export interface CompareOptions {
  readonly topology: Topology;
  readonly nats?: NatsSettings;
  readonly requests: readonly BenchRequest[];
  readonly maxTokens: number;
  readonly numRounds: number;
  readonly monolithThreads: number;
  readonly progress: (text: string) => void;
  readonly onKill: (callback: () => void) => void;
  /** Throws when the user wants no more. */
  readonly stopped: () => void;
}

export interface Comparison {
  readonly afd: Figures;
  readonly monolith: Figures;
  /** Decode throughput, deployment ÷ monolith. */
  readonly ratio: number;
  readonly shares: Shares;
}

/** Both sides in turns, so that neither has the quieter half of a noisy machine. */
export async function compareRounds(options: CompareOptions): Promise<Comparison> {
  const { topology, nats, requests, maxTokens, numRounds, progress, stopped } = options;
  const supervisor = new Supervisor({ topology, ...(nats !== undefined && { nats }), onEvent: () => undefined });
  options.onKill(() => supervisor.kill());
  progress("starting a deployment");
  await supervisor.start();
  let monolith: Monolith | undefined;
  let client: RallyClient | undefined;
  try {
    progress("starting a monolith");
    monolith = await Monolith.start(monolithSettings(topology), options.monolithThreads);
    client = await RallyClient.connect(supervisor.nats.settings, {
      deployment: topology.deployment,
      name: "rally-bench",
    });
    const rounds = { afd: [] as TokenTimes[][], monolith: [] as TokenTimes[][] };
    const shares: [RoleStats[], RoleStats[]][] = [];
    // Round 0 warms up.
    for (let round = 0; round <= numRounds; round++) {
      for (const side of round % 2 === 0 ? (["afd", "monolith"] as const) : (["monolith", "afd"] as const)) {
        stopped();
        progress(`round ${round} of ${numRounds}: ${side === "afd" ? "deployment" : "monolith"}`);
        const before = side === "afd" ? await supervisor.stats() : [];
        const times =
          side === "afd" ? await afdRound(client, requests, maxTokens) : await monolith.round(requests, maxTokens);
        if (round === 0) continue;
        rounds[side].push(times);
        if (side === "afd") shares.push([before, await supervisor.stats()]);
      }
    }
    const [afd, single] = [figuresOfRounds(rounds.afd), figuresOfRounds(rounds.monolith)];
    return { afd, monolith: single, ratio: afd.tokensPerSecond / single.tokensPerSecond, shares: medianShares(shares) };
  } finally {
    await client?.close();
    await monolith?.close();
    await supervisor.stop({ drain: false });
  }
}

/** The round with the median busy share stands for all: its shares belong together. */
function medianShares(rounds: readonly (readonly [RoleStats[], RoleStats[]])[]): Shares {
  const shares = rounds.map(([before, after]) => sharesBetween(before, after));
  const sorted = shares.sort((a, b) => a.attentionBusy - b.attentionBusy);
  return sorted[Math.floor((sorted.length - 1) / 2)] as Shares;
}

/** One shard that holds every expert, one micro-batch: nothing to overlap with. */
function monolithSettings(topology: Topology): AttentionSettings {
  const alone: Topology = { ...topology, numAttention: 1, microBatches: 1 };
  const [slot] = attentionSlots(alone, { url: "" }, false);
  return slot?.settings("monolith") as AttentionSettings;
}
