import { systemClock } from "../../../infra/clock.ts";
import type { NatsSettings } from "../../../infra/nats-settings.ts";
import { RallyClient } from "../../client/rally-client.ts";
import { Supervisor } from "../../supervisor/supervisor.ts";
import type { Topology } from "../../supervisor/topology.ts";
import { type Goodput, goodputCurve, type GoodputOptions } from "./goodput.ts";

export interface GoodputRun extends Omit<GoodputOptions, "client" | "clock"> {
  readonly topology: Topology;
  readonly nats?: NatsSettings;
  readonly onKill: (callback: () => void) => void;
}

/** The curve of a deployment that is started for it. */
export async function runGoodput({ topology, nats, onKill, ...options }: GoodputRun): Promise<Goodput> {
  const supervisor = new Supervisor({ topology, ...(nats !== undefined && { nats }), onEvent: () => undefined });
  onKill(() => supervisor.kill());
  options.progress("starting a deployment");
  await supervisor.start();
  let client: RallyClient | undefined;
  try {
    const { deployment } = topology;
    client = await RallyClient.connect(supervisor.nats.settings, { deployment, name: "rally-bench" });
    return await goodputCurve({ ...options, client, clock: systemClock });
  } finally {
    await client?.close();
    await supervisor.stop({ drain: false });
  }
}

/** The curve as lines of text. */
export function goodputTable({ sustainablePerSecond, points }: Goodput): string[] {
  const head = [
    "offered/s",
    "goodput",
    "of peak",
    "completed",
    "refused",
    "late",
    "TTFT p50",
    "p99 ms",
    "refusal p50",
    "p99 ms",
  ];
  const peak = Math.max(...points.map(({ goodput }) => goodput));
  return [
    `sustainable: ${sustainablePerSecond.toFixed(1)} requests per second; goodput in output tokens per second`,
    "load".padEnd(8) + head.map((text) => text.padStart(12)).join(""),
    ...points.map((point) => {
      const cells = [
        point.offeredPerSecond.toFixed(1),
        point.goodput.toFixed(0),
        `${((100 * point.goodput) / peak).toFixed(0)} %`,
        point.completed,
        point.refused,
        point.late + point.failed,
        point.ttftMs.p50.toFixed(0),
        point.ttftMs.p99.toFixed(0),
        point.refusalMs.p50.toFixed(0),
        point.refusalMs.p99.toFixed(0),
      ];
      return `${point.factor} ×`.padEnd(8) + cells.map((cell) => String(cell).padStart(12)).join("");
    }),
  ];
}
