import { RallyError } from "../../infra/errors.ts";
import { DEFAULT_SAMPLING, type SamplingParams, validateSampling } from "../../models/sampling/params.ts";
import type { Arrival, LengthRange, LoadPlan } from "./scenario.ts";
import type { YamlFields } from "./yaml-fields.ts";

const COUNT = { min: 1, max: 1_000_000 };
const WEIGHT = { min: 0.001, max: 1_000_000 };
const TOKENS = { min: 1, max: 100_000 };

/** Enough to see something in a few seconds on two cores. */
const DEFAULTS: LoadPlan = {
  arrival: { kind: "closed", concurrency: 8 },
  requests: 100,
  durationMs: undefined,
  distinct: 100,
  promptTokens: [{ weight: 1, min: 4, max: 24 }],
  outputTokens: [{ weight: 1, min: 16, max: 64 }],
  sampling: [
    { weight: 1, params: { temperature: 0 } },
    { weight: 1, params: { temperature: 0.9 } },
  ],
  deadlineMs: 60_000,
};

export function readLoad(fields: YamlFields | undefined): LoadPlan {
  if (fields === undefined) return DEFAULTS;
  const requests = fields.integer("requests", COUNT, DEFAULTS.requests);
  const load: LoadPlan = {
    arrival: readArrival(fields.map("arrival")),
    requests,
    durationMs: fields.has("durationMs") ? fields.integer("durationMs", { min: 1, max: 7 * 86_400_000 }) : undefined,
    distinct: fields.integer("distinct", COUNT, Math.min(requests, DEFAULTS.distinct)),
    promptTokens: readLengths(fields, "promptTokens") ?? DEFAULTS.promptTokens,
    outputTokens: readLengths(fields, "outputTokens") ?? DEFAULTS.outputTokens,
    sampling: readSampling(fields) ?? DEFAULTS.sampling,
    deadlineMs: fields.integer("deadlineMs", { min: 100, max: 3_600_000 }, DEFAULTS.deadlineMs),
  };
  fields.done();
  return load;
}

function readArrival(fields: YamlFields | undefined): Arrival {
  if (fields === undefined) return DEFAULTS.arrival;
  const kind = fields.choice("kind", ["closed", "poisson"]);
  const arrival: Arrival =
    kind === "closed"
      ? { kind, concurrency: fields.integer("concurrency", { min: 1, max: 1024 }) }
      : { kind, perSecond: fields.number("perSecond", { min: 0.01, max: 10_000 }) };
  fields.done();
  return arrival;
}

function readLengths(fields: YamlFields, name: string): LengthRange[] | undefined {
  if (!fields.has(name)) return undefined;
  const ranges = fields.maps(name).map((item) => {
    const min = item.integer("min", TOKENS);
    const max = item.integer("max", { min, max: TOKENS.max });
    const range = { weight: item.number("weight", WEIGHT, 1), min, max };
    item.done();
    return range;
  });
  if (ranges.length === 0) throw fields.wrong(name, "at least one range of lengths");
  return ranges;
}

function readSampling(fields: YamlFields): LoadPlan["sampling"] | undefined {
  if (!fields.has("sampling")) return undefined;
  const mix = fields.maps("sampling").map((item) => {
    const params: { -readonly [Name in keyof SamplingParams]?: number } = {};
    for (const name of Object.keys(DEFAULT_SAMPLING) as (keyof SamplingParams)[]) {
      if (item.has(name)) params[name] = item.number(name, { min: 0, max: Number.MAX_SAFE_INTEGER });
    }
    try {
      validateSampling(params);
    } catch (thrown) {
      const { fields: found } = RallyError.from(thrown);
      throw item.wrong(String(found["field"]).replace("sampling.", ""), String(found["expected"]));
    }
    const entry = { weight: item.number("weight", WEIGHT, 1), params };
    item.done();
    return entry;
  });
  if (mix.length === 0) throw fields.wrong("sampling", "at least one entry");
  return mix;
}
