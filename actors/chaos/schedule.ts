import { RallyError } from "../../infra/errors.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { durationOf, type Fault, FAULTS, type FaultTarget } from "./faults.ts";
import type { FaultPlan, Scenario, Weighted } from "./scenario.ts";

/** What a fault can be aimed at: one place in the topology, or the client. */
export interface TargetSlot {
  readonly name: string;
  readonly role: "attention" | "expert" | "client";
  /** Of an expert. */
  readonly shard?: number;
  readonly replica?: number;
  /** Of an attention actor. */
  readonly index?: number;
}

export const CLIENT_SLOT = "client";

export interface PlannedFault {
  /** In the order of their times. */
  readonly id: number;
  readonly atMs: number;
  readonly fault: Fault;
  /** Name of the slot; undefined for faults that have none. */
  readonly target: string | undefined;
}

/**
 * Every fault of a scenario in the order of its time, decided by the seed alone. Without end if a plan has neither an end nor
 * a count.
 */
export function* schedule(scenario: Scenario, slots: readonly TargetSlot[], seed: number): Generator<PlannedFault> {
  const plans = scenario.faults.map((plan, i) => planned(plan, slots, new SeededRandom(seed, `fault-${i}`)));
  const heads = plans.map((plan) => plan.next().value);
  for (let id = 0; ; id++) {
    let first: number | undefined;
    for (const [i, head] of heads.entries()) {
      if (head !== undefined && (first === undefined || head.atMs < (heads[first]?.atMs ?? Infinity))) first = i;
    }
    const head = first === undefined ? undefined : heads[first];
    if (first === undefined || head === undefined) return;
    yield { id, ...head };
    heads[first] = plans[first]?.next().value;
  }
}

/** When the last fault that a count asks for is over: the load has to last that long. */
export function lastCountedMs(scenario: Scenario, slots: readonly TargetSlot[], seed: number): number {
  let last = 0;
  for (const [i, plan] of scenario.faults.entries()) {
    if (plan.timing.everyMs !== undefined && plan.timing.count === undefined) continue;
    for (const { atMs, fault } of planned(plan, slots, new SeededRandom(seed, `fault-${i}`))) {
      last = Math.max(last, atMs + durationOf(fault));
    }
  }
  return last;
}

function* planned(
  { timing, mix }: FaultPlan,
  slots: readonly TargetSlot[],
  random: SeededRandom,
): Generator<Omit<PlannedFault, "id">, undefined> {
  const { everyMs, count, isRandom } = timing;
  const weighted: readonly (Weighted & { readonly fault: Fault })[] = mix;
  let atMs = timing.atMs;
  for (let i = 0; i < (count ?? (everyMs === undefined ? 1 : Infinity)); i++) {
    if (everyMs !== undefined && (i > 0 || isRandom)) atMs += isRandom ? random.exponential(everyMs) : everyMs;
    const { fault } = random.weighted(weighted);
    const { group } = FAULTS[fault.kind];
    const hasTarget = group === "process" || group === "network";
    yield { atMs: Math.round(atMs), fault, target: hasTarget ? aim(fault, slots, random) : undefined };
  }
  return undefined;
}

/** Name of the slot. One that is not there is named by its description, and nothing will be found under that. */
function aim({ target }: Fault, slots: readonly TargetSlot[], random: SeededRandom): string {
  // The client is only ever hit by name: it is the observer's own.
  const candidates = slots.filter(
    (slot) => matches(slot, target) && (target.role === "client") === (slot.role === "client"),
  );
  return candidates.length === 0 ? describeTarget(target) : random.pick(candidates).name;
}

/** RallyError `bad-settings` for a fault whose target the topology does not have. */
export function checkTargets(scenario: Scenario, slots: readonly TargetSlot[]): void {
  for (const { fault } of scenario.faults.flatMap(({ mix }) => mix)) {
    if (slots.some((slot) => matches(slot, fault.target))) continue;
    const found = describeTarget(fault.target);
    throw new RallyError("bad-settings", `${scenario.file}: ${fault.kind}: nothing in the topology is ${found}`, {
      file: scenario.file,
      field: "target",
      found,
    });
  }
}

function matches(slot: TargetSlot, target: FaultTarget): boolean {
  return (["role", "shard", "replica", "index"] as const).every(
    (field) => target[field] === undefined || target[field] === slot[field],
  );
}

function describeTarget(target: FaultTarget): string {
  const words = Object.entries(target).map(([field, value]) => `${field} ${value}`);
  return words.length === 0 ? "any actor" : words.join(", ");
}
