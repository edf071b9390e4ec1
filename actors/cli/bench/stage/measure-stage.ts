import { RallyError } from "../../../../infra/errors.ts";
import type { ModelConfig } from "../../../../models/config.ts";
import type { Place } from "../../../../models/kernels/check/runner.ts";
import { KernelSizes } from "../../../../models/kernels/sizes.ts";
import type { Measurement } from "../../../../models/planner/measurements.ts";
import type { KvKind } from "../../../../models/planner/planned-model.ts";
import { cacheParts, projectionParts } from "./attention-parts.ts";
import { attentionStage } from "./attention-stage.ts";
import type { BenchGraph } from "./bench-graph.ts";
import { dense, experts, head, type Routing } from "./ffn-parts.ts";
import { sampleKv } from "./kv.ts";
import type { AttentionContext, Part, PartContext } from "./part.ts";
import { Patterns } from "./patterns.ts";
import { DISTINCT_ROTATION, type Rotation, STANDARD_ROTATION } from "./rotation.ts";
import { stockAttention, stockExperts, type StockPart, stockProjections } from "./stock-parts.ts";
import { timeGraph } from "./time-graph.ts";

export interface StageOptions {
  readonly place: Place;
  readonly config: ModelConfig;
  readonly stage: "attention" | "ffn";
  readonly batches: readonly number[];
  readonly contexts: readonly number[];
  readonly kv: KvKind;
  readonly routing: Routing;
  readonly progress: (text: string) => void;
  /** Throws when the user wants no more. */
  readonly stopped: () => void;
  readonly rotation?: Rotation;
  readonly time?: (place: Place, graph: BenchGraph) => number;
}

/** One part at one batch: its floor's two terms, and how long each maker took; `reason` where one could not do it. */
export interface Measured {
  readonly part: string;
  readonly batch: number;
  readonly context?: number;
  readonly kv?: KvKind;
  readonly routing?: Routing;
  readonly bytes: number;
  readonly flops: number;
  readonly results: readonly Result[];
}

type Result = { readonly by: "rally" | "onnxruntime"; readonly method: string } & (
  | { readonly us: number }
  | { readonly reason: string }
);

/** Every part of a stage at every batch and context length, by Rally's operators and by ONNX Runtime's own where it has one. */
export function measureStage(options: StageOptions): Measured[] {
  const { place, config, stage, batches, rotation = STANDARD_ROTATION } = options;
  const sizes = new KernelSizes(place.library);
  return batches.flatMap((batch) => {
    const context: PartContext = { config, sizes, batch, rotation, patterns: new Patterns(batch) };
    return stage === "attention" ? attentionParts(options, context) : ffnParts(options, context);
  });
}

function attentionParts(options: StageOptions, base: PartContext): Measured[] {
  const { contexts, kv, place } = options;
  const projections = projectionParts(base);
  const stock = stockProjections(distinct(base));
  const [first = 1] = contexts;
  const sample = sampleKv(place, { ...base, context: first, kv });
  return [
    ...projections.map((part) => measure(options, base.batch, part, stock)),
    measure(options, base.batch, head(base), []),
    ...contexts.flatMap((tokens) => {
      const context: AttentionContext = { ...base, context: tokens, kv };
      const own = cacheParts(context, sample);
      const whole = attentionStage(context, sample, [...projections, ...own]);
      const at = { context: tokens, kv };
      return [...own, whole].map((part) => ({
        ...measure(options, base.batch, part, [stockAttention(distinct(context))]),
        ...at,
      }));
    }),
  ];
}

function ffnParts(options: StageOptions, context: PartContext): Measured[] {
  const { routing } = options;
  return [
    { ...measure(options, context.batch, experts(context, routing), [stockExperts(distinct(context))]), routing },
    measure(options, context.batch, dense(context), []),
  ];
}

/** Tests ask for less than the standard. */
function distinct<C extends PartContext>(context: C): C {
  return context.rotation === STANDARD_ROTATION ? { ...context, rotation: DISTINCT_ROTATION } : context;
}

function measure(options: StageOptions, batch: number, part: Part, stock: readonly StockPart[]): Measured {
  const { place, progress, stopped, time = timeGraph } = options;
  const attempt = (by: Result["by"], method: string, build: () => BenchGraph): Result => {
    stopped();
    progress(`${part.name}, batch ${batch}: ${by}`);
    try {
      return { by, method, us: time(place, build()) };
    } catch (thrown) {
      // An operator that does not do a shape, or too little memory for it: the others go on.
      const { code, message } = RallyError.from(thrown);
      if (code !== "session-failed" && code !== "out-of-memory") throw thrown;
      return { by, method, reason: message };
    }
  };
  const same = stock.find(({ name }) => name === part.name);
  return {
    part: part.name,
    batch,
    bytes: part.bytes,
    flops: part.flops,
    results: [
      attempt("rally", "rally operators", part.build),
      ...(same === undefined ? [] : [attempt("onnxruntime", same.method, same.build)]),
    ],
  };
}

/** As other programs, and `rally bench --project`, read it. */
export function measurementsOf(stage: StageOptions["stage"], measured: readonly Measured[]): Measurement[] {
  return measured.flatMap(({ results, bytes: _bytes, flops: _flops, ...where }) =>
    results.flatMap((result) => {
      if (!("us" in result)) return [];
      const { by, method, us } = result;
      return [{ model: "step3" as const, by, stage, method, us, ...where }];
    }),
  );
}
