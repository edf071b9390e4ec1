import { assert } from "../../infra/errors.ts";
import type { KvSlots } from "../../models/kv-cache.ts";
import type { AttentionStages, Pass } from "../../models/stages.ts";
import type { PingPongPhase } from "./ping-pong.machine.ts";
import { type PassPlan, MicroBatchSchedule } from "./scheduler.ts";
import { numRemaining, type Sequence } from "./sequence.ts";

/** A micro-batch and where its present pass stands; `plan` and `pass` are undefined while it is idle. */
export interface MicroBatch {
  readonly schedule: MicroBatchSchedule;
  readonly kv: KvSlots;
  phase: PingPongPhase;
  layer: number;
  passId: number;
  plan: PassPlan | undefined;
  /** Laid out when the pass is first attended. */
  pass: Pass | undefined;
}

export function createMicroBatch(
  index: number,
  stages: AttentionStages,
  limits: { readonly maxSequences: number; readonly prefillTokens: number },
): MicroBatch {
  const kv = stages.createCache(limits.maxSequences);
  const schedule = new MicroBatchSchedule(index, kv, limits.prefillTokens);
  return { schedule, kv, phase: "idle", layer: 0, passId: 0, plan: undefined, pass: undefined };
}

/** True if nobody wants the present pass any more. */
export function isForsaken({ plan }: MicroBatch): boolean {
  return plan !== undefined && plan.sequences.every(({ gone }) => gone);
}

export function layOut({ plan, kv }: MicroBatch, stages: AttentionStages): Pass {
  assert(plan !== undefined, "an attending micro-batch has a plan");
  const { firstSlot, sequences, chunk } = plan;
  const pasts: number[] = [];
  const tokenIds: number[] = [];
  for (const sequence of sequences) {
    pasts.push(sequence.numCached);
    for (let i = 0; i < chunk; i++) tokenIds.push(sequence.tokenIds[sequence.numCached + i] as number);
  }
  return stages.plan({ kv, firstSlot, numSequences: sequences.length, chunk, pasts, tokenIds });
}

/** Sequences whose last known token has gone through, with its row in the pass: they get their next one now. */
export function sequencesDue({ sequences, chunk }: PassPlan): { readonly due: Sequence[]; readonly rows: number[] } {
  const due: Sequence[] = [];
  const rows: number[] = [];
  for (const [i, sequence] of sequences.entries()) {
    if (sequence.gone || numRemaining(sequence) > 0) continue;
    due.push(sequence);
    rows.push((i + 1) * chunk - 1);
  }
  return { due, rows };
}
