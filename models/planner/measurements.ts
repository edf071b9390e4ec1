import { RallyError } from "../../infra/errors.ts";
import type { Ceilings } from "./floors.ts";
import { DEEPSEEK_V3, type KvKind, type PlannedModel, STEP3 } from "./planned-model.ts";
import type { Point, StageTimes } from "./stage-times.ts";

/** One row of a benchmark's JSON: a part of a stage (or the whole of it, part `stage`), done by someone in some way. */
export interface Measurement {
  readonly model: PlannedModel["name"];
  /** Whose kernels: rally, pytorch, onnxruntime. */
  readonly by: string;
  readonly stage: "attention" | "ffn";
  readonly part: string;
  readonly batch: number;
  readonly context?: number;
  readonly kv?: KvKind;
  readonly routing?: string;
  /** How the experts were dealt out: ep128 or 2a2f; Step-3's are always 2a2f. */
  readonly share?: string;
  readonly method: string;
  readonly us: number;
}

export interface Report {
  readonly device: string;
  readonly ceilings?: Ceilings;
  readonly measurements: readonly Measurement[];
}

type Json = Readonly<Record<string, unknown>>;

const NAMES: readonly unknown[] = ["step3", "dsv3"];
const STAGES: readonly unknown[] = ["attention", "ffn"];
const CEILINGS = ["copyBytesPerSecond", "fp8FlopsPerSecond", "bf16FlopsPerSecond"] as const;

/** The JSON that `rally bench --stage --json` and torch_stages.py write. RallyError `bad-settings` for anything else. */
export function parseReport(text: string, file: string): Report {
  const refuse = (reason: string) => new RallyError("bad-settings", `${file}: ${reason}`, { file });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw refuse("not JSON");
  }
  if (!isObject(json) || !Array.isArray(json["measurements"])) throw refuse("has no list of measurements");
  const measurements = json["measurements"].map((row: unknown, i): Measurement => {
    if (!isMeasurement(row)) throw refuse(`measurement ${i} misses model, stage, part, batch, method or us`);
    return { ...row, by: row.by ?? "pytorch" };
  });
  const { device, ceilings } = json;
  return {
    device: typeof device === "string" ? device : "unknown",
    ...(isObject(ceilings) && isCeilings(ceilings) && { ceilings }),
    measurements,
  };
}

function isMeasurement(row: unknown): row is Omit<Measurement, "by"> & { by?: string } {
  if (!isObject(row)) return false;
  const { model, stage, part, batch, method, us, by } = row;
  const isNumbered = isPositive(batch) && isPositive(us);
  const isNamed = typeof part === "string" && typeof method === "string" && ["string", "undefined"].includes(typeof by);
  return NAMES.includes(model) && STAGES.includes(stage) && isNumbered && isNamed;
}

function isCeilings(ceilings: Json): ceilings is Json & Ceilings {
  return CEILINGS.every((name) => isPositive(ceilings[name]));
}

function isPositive(value: unknown): boolean {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null;
}

export const PLANNED_MODELS: Readonly<Record<PlannedModel["name"], PlannedModel>> = {
  step3: STEP3,
  dsv3: DEEPSEEK_V3,
};

/** Parts of an attention stage that follow one another; what a model lacks is absent. */
const ATTENTION_PARTS: Readonly<Record<PlannedModel["name"], readonly string[]>> = {
  step3: "inputNorm qDownKv interNorm qUp ropeAppend attention quantiseOut oProj postNorm router".split(" "),
  dsv3: "inputNorm qDownKv interNorm qUp absorbKey ropeAppend attention valueUp quantiseOut oProj postNorm router".split(
    " ",
  ),
};

export interface Selection {
  readonly model: PlannedModel["name"];
  readonly by: string;
  readonly kv: KvKind;
  readonly context: number;
}

/**
 * The stage times of one model by one maker: the whole attention stage where it ran as one, otherwise the sum of its parts, each by
 * its fastest way. A dense layer and the head are Step-3's for both models: the shapes are the same but for 0.4% of the vocabulary.
 */
export function stageTimes(rows: readonly Measurement[], { model, by, kv, context }: Selection): StageTimes {
  const own = rows.filter((row) => row.model === model && row.by === by);
  const at = own.filter((row) => (row.kv ?? kv) === kv && (row.context ?? context) === context);
  const whole = fastest(at.filter(({ part }) => part === "stage"));
  const step3 = rows.filter((row) => row.model === "step3" && row.by === by);
  const share = (row: Measurement) => (row.share ?? "2a2f") === "2a2f" && (row.routing ?? "balanced") === "balanced";
  const { numExperts, topK } = PLANNED_MODELS[model];
  const routed = numExperts / 16; // on each of the 16 GPUs of two FFN servers
  // Sixteen attention GPUs' tokens: each sixteenth is batch rows of the shared expert and topK times as many of the routed ones.
  const rowsPerWeight = (batch: number) => (batch * (topK + 1)) / (routed + 1);
  return {
    attention: whole.length > 0 ? whole : summed(at, ATTENTION_PARTS[model]),
    experts: fastest(own.filter((row) => row.part === "experts" && share(row))).map((point) => ({
      rows: rowsPerWeight(point.rows),
      us: point.us,
    })),
    weightsPerPoint: routed + 1,
    dense: fastest(step3.filter(({ part }) => part === "dense")),
    head: fastest(step3.filter(({ part }) => part === "head")),
  };
}

/** The same, with the experts of one of 128 GPUs that do both: rows are sequences of each GPU. */
export function colocatedTimes(rows: readonly Measurement[], selection: Selection): StageTimes {
  const experts = rows.filter(
    ({ model, by, part, share }) =>
      model === selection.model && by === selection.by && part === "experts" && share === "ep128",
  );
  return { ...stageTimes(rows, selection), experts: fastest(experts), weightsPerPoint: 3 };
}

/** Per batch the least time of all methods. */
function fastest(rows: readonly Measurement[]): Point[] {
  const best = new Map<number, number>();
  for (const { batch, us } of rows) best.set(batch, Math.min(us, best.get(batch) ?? Number.POSITIVE_INFINITY));
  return [...best].map(([batch, us]) => ({ rows: batch, us })).toSorted((a, b) => a.rows - b.rows);
}

/** Batches at which every part was measured. */
function summed(rows: readonly Measurement[], parts: readonly string[]): Point[] {
  const perPart = parts.map((name) => fastest(rows.filter(({ part }) => part === name)));
  const [first = []] = perPart;
  return first.flatMap(({ rows: batch }) => {
    const times = perPart.map((points) => points.find((point) => point.rows === batch)?.us);
    return times.every((us) => us !== undefined) ? [{ rows: batch, us: times.reduce((sum, us) => sum + us, 0) }] : [];
  });
}
