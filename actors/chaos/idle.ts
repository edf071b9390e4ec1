import type { Clock } from "../../infra/clock.ts";
import type { RoleStats } from "../protocol/role.ts";
import { openRequestQueue } from "../protocol/streams.ts";
import { type Subjects, subjectsOf } from "../protocol/subjects.ts";
import type { ChaosTarget } from "./chaos-target.ts";

/** What a deployment holds, by name; everything is back to where it was when none is larger than before. */
export type Holdings = ReadonlyMap<string, number>;

const ATTENTION = ["activeSequences", "waitingSequences", "kvTokens", "pendingDispatches", "creditsInUse"] as const;
const LOOK_EVERY_MS = 250;
const ANSWER_MS = 3_000;

export async function holdingsOf(target: ChaosTarget): Promise<Holdings> {
  const subjects = subjectsOf(target.deployment);
  const holdings = new Map<string, number>();
  const queue = await openRequestQueue(target.connection.durable, subjects);
  holdings.set("requests on the queue", await queue.depth());
  holdings.set("readers of the token log", await numReaders(target, subjects));
  const stats = await target.stats();
  if (stats === undefined) return holdings;
  for (const role of stats) for (const [what, amount] of amounts(role)) holdings.set(what, amount);
  const numRoles = target.slots.filter(({ role }) => role !== "client").length;
  holdings.set("actors that do not answer", numRoles - stats.length);
  return holdings;
}

/** What is held beyond `before`, once that no longer changes for the better; empty if all is back within the limit. */
export async function leaksOf(
  target: ChaosTarget,
  before: Holdings,
  options: { readonly clock: Clock; readonly limitMs: number },
): Promise<{ readonly what: string; readonly amount: number }[]> {
  const { clock, limitMs } = options;
  const deadline = clock.elapsed() + limitMs;
  for (;;) {
    let leaks: { what: string; amount: number }[];
    try {
      const after = await holdingsOf(target);
      leaks = [...after].flatMap(([what, amount]) => {
        const extra = amount - (before.get(what) ?? 0);
        return extra > 0 ? [{ what, amount: extra }] : [];
      });
    } catch (thrown) {
      leaks = [{ what: `answers: ${thrown instanceof Error ? thrown.message : String(thrown)}`, amount: 1 }];
    }
    if (leaks.length === 0 || clock.elapsed() >= deadline) return leaks;
    await new Promise<void>((resolve) => clock.after(LOOK_EVERY_MS, resolve));
  }
}

function amounts(stats: RoleStats): [string, number][] {
  const slot = stats.id.slice(0, stats.id.lastIndexOf("-"));
  if (stats.role === "expert") return [[`${slot}: waiting batches`, stats.waiting]];
  return ATTENTION.map((field) => [`${slot}: ${field}`, stats[field]]);
}

async function numReaders({ connection }: ChaosTarget, { tokenStream }: Subjects): Promise<number> {
  const answer = await connection.bus.request(`$JS.API.STREAM.INFO.${tokenStream}`, new Uint8Array(), ANSWER_MS);
  const info = JSON.parse(Buffer.from(answer.payload).toString()) as { state?: { consumer_count?: number } };
  return info.state?.consumer_count ?? 0;
}
