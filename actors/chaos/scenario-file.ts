import { readFileSync } from "node:fs";
import path from "node:path";
import { ERROR_CODES, RallyError } from "../../infra/errors.ts";
import { ROLE_LIMITS, type RoleLimit, type RoleLimits } from "../supervisor/role-limits.ts";
import { TOPOLOGY_LIMITS } from "../supervisor/topology.ts";
import { readFault } from "./fault-fields.ts";
import { FAULT_KINDS, type FaultKind } from "./faults.ts";
import { readLoad } from "./load-fields.ts";
import type { FaultPlan, Hold, Scenario, Timing } from "./scenario.ts";
import { readYaml, type YamlFields } from "./yaml-fields.ts";

const TIME = { min: 0, max: 24 * 3_600_000 };
const GAP = { min: 1, max: TIME.max };
const COUNT = { min: 1, max: 1_000_000 };

export function readScenarioFile(file: string): Scenario {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new RallyError("bad-settings", `${file}: cannot be read`, { file }, { cause });
  }
  return parseScenario(file, text);
}

/** RallyError `bad-settings` names file, line and field. */
export function parseScenario(file: string, text: string): Scenario {
  const fields = readYaml(file, text);
  const scenario: Scenario = {
    name: fields.text("name", path.basename(file, path.extname(file))),
    description: fields.text("description", ""),
    file,
    seed: fields.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }, 1),
    topology: readTopology(fields.map("topology")),
    sharedMemory: fields.boolean("sharedMemory", true),
    load: readLoad(fields.map("load")),
    faults: fields.maps("faults").map(readPlan),
    hold: readHold(fields.map("hold")),
  };
  fields.done();
  return scenario;
}

function readTopology(fields: YamlFields | undefined): Scenario["topology"] {
  if (fields === undefined) return {};
  const amount = (name: string, max: number) => (fields.has(name) ? fields.integer(name, { min: 1, max }) : undefined);
  const numAttention = amount("attention", TOPOLOGY_LIMITS.numAttention);
  const numShards = amount("shards", TOPOLOGY_LIMITS.numShards);
  const numReplicas = amount("replicas", TOPOLOGY_LIMITS.numReplicas);
  const microBatches = amount("microBatches", TOPOLOGY_LIMITS.microBatches);
  const limits = readLimits(fields.map("limits"));
  fields.done();
  return {
    ...(numAttention !== undefined && { numAttention }),
    ...(numShards !== undefined && { numShards }),
    ...(numReplicas !== undefined && { numReplicas }),
    ...(microBatches !== undefined && { microBatches }),
    limits,
  };
}

function readLimits(fields: YamlFields | undefined): RoleLimits {
  if (fields === undefined) return {};
  const names = (Object.keys(ROLE_LIMITS) as RoleLimit[]).filter((name) => fields.has(name));
  const limits = Object.fromEntries(names.map((name) => [name, fields.integer(name, ROLE_LIMITS[name])]));
  fields.done();
  return limits;
}

/** One fault with its times, or `random`: a mix of which one strikes each time. */
function readPlan(fields: YamlFields): FaultPlan {
  const isRandom = fields.has("mix");
  const timing: Timing = {
    atMs: fields.number("atMs", TIME, isRandom ? 0 : undefined),
    everyMs: fields.has("everyMs") || isRandom ? fields.number("everyMs", GAP) : undefined,
    isRandom: fields.boolean("random", isRandom),
    count: fields.has("count") ? fields.integer("count", COUNT) : undefined,
  };
  if (timing.count !== undefined && timing.everyMs === undefined) {
    throw fields.wrong("everyMs", "the milliseconds between two of them, as there is a count");
  }
  const one = () => ({ weight: 1, fault: readFault(fields) });
  const mix = isRandom
    ? fields.maps("mix").map((item) => {
        const weighted = { weight: item.number("weight", { min: 0.001, max: 1_000_000 }, 1), fault: readFault(item) };
        item.done();
        return weighted;
      })
    : [one()];
  if (mix.length === 0) throw fields.wrong("mix", "at least one fault");
  fields.done();
  return { timing, mix };
}

function readHold(fields: YamlFields | undefined): Hold {
  const recovery: Partial<Record<FaultKind, { p50?: number; p99?: number }>> = {};
  for (const [kind, limits] of fields?.map("recoveryMs")?.entries(FAULT_KINDS) ?? []) {
    recovery[kind] = {
      ...(limits.has("p50") && { p50: limits.number("p50", TIME) }),
      ...(limits.has("p99") && { p99: limits.number("p99", TIME) }),
    };
    limits.done();
  }
  const hold: Hold = {
    recoveryMs: recovery,
    throughputRatio:
      fields?.has("throughputRatio") === true ? fields.number("throughputRatio", { min: 0, max: 10 }) : undefined,
    allowErrors: fields?.choices("allowErrors", ERROR_CODES) ?? [],
    idleWithinMs: fields?.number("idleWithinMs", TIME, 15_000) ?? 15_000,
  };
  fields?.done();
  return hold;
}
