import { type Direction, type Fault, FAULT_KINDS, FAULTS, type FaultTarget, type NumberSpec } from "./faults.ts";
import type { YamlFields } from "./yaml-fields.ts";

const DIRECTIONS: readonly Direction[] = ["both", "to-server", "from-server"];
const INDEX = { min: 0, max: 63 };

/** The fields that say what a fault is; those of its times are somebody else's. */
export function readFault(fields: YamlFields): Fault {
  const kind = fields.choice("kind", FAULT_KINDS);
  const { group, numbers } = FAULTS[kind];
  const hasTarget = group === "process" || group === "network";
  const values = Object.entries<NumberSpec>(numbers).map(([name, spec]) => [
    name,
    fields.number(name, spec, spec.fallback),
  ]);
  return {
    kind,
    target: hasTarget ? readTarget(fields, group) : {},
    numbers: Object.fromEntries(values),
    direction: group === "network" ? fields.choice("direction", DIRECTIONS, "both") : "both",
    subjects: group === "network" && fields.has("subjects") ? fields.text("subjects") : undefined,
  };
}

function readTarget(fields: YamlFields, group: "process" | "network"): FaultTarget {
  const target = fields.map("target");
  if (target === undefined) return {};
  const roles = group === "process" ? (["attention", "expert"] as const) : (["attention", "expert", "client"] as const);
  const role = target.has("role") ? target.choice("role", roles) : undefined;
  const index = (name: string) => {
    if (!target.has(name) || isRandom(target, name)) return undefined;
    return target.integer(name, INDEX);
  };
  const [shard, replica] = role === "expert" ? [index("shard"), index("replica")] : [];
  const attention = role === "attention" ? index("index") : undefined;
  target.done();
  return {
    ...(role !== undefined && { role }),
    ...(shard !== undefined && { shard }),
    ...(replica !== undefined && { replica }),
    ...(attention !== undefined && { index: attention }),
  };
}

function isRandom(target: YamlFields, name: string): boolean {
  try {
    return target.choice(name, ["random"]) === "random";
  } catch {
    return false;
  }
}
