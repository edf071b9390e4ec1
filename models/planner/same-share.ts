import { attentionFloorUs, type Ceilings, expertsFloorUs } from "./floors.ts";
import type { KvKind, PlannedModel } from "./planned-model.ts";
import type { StageTimes } from "./stage-times.ts";

/** Where times were measured. */
export interface At {
  readonly kv: KvKind;
  readonly context: number;
}

/**
 * What `other` would take by kernels as good as those that `times` of `model` were measured with: its own floors at the same share of
 * the floor. One model's kernels may be worked on for long and another's not; this compares the models.
 */
export function atSameShare(
  model: PlannedModel,
  times: StageTimes,
  other: PlannedModel,
  otherWeights: number,
  { kv, context }: At,
  ceilings: Ceilings,
): StageTimes {
  const attention = times.attention.map(({ rows, us }) => {
    const own = attentionFloorUs(model, kv, rows, context, ceilings);
    return { rows, us: us * (attentionFloorUs(other, kv, rows, context, ceilings) / own) };
  });
  const slowness = times.experts
    .map(({ rows, us }) => ({ rows, share: us / expertsFloorUs(model, times.weightsPerPoint, rows, ceilings) }))
    .toSorted((a, b) => a.rows - b.rows);
  const last = slowness.at(-1);
  // DeepSeek-V3's experts see more rows than Step-3's were measured with: the last share stands for those.
  const beyond = last === undefined ? [] : BEYOND.map((factor) => ({ rows: factor * last.rows, share: last.share }));
  const experts = [...slowness, ...beyond].map(({ rows, share }) => ({
    rows,
    us: share * expertsFloorUs(other, otherWeights, rows, ceilings),
  }));
  return { ...times, attention, experts, weightsPerPoint: otherWeights };
}

const BEYOND = [1.5, 2, 3, 4];
