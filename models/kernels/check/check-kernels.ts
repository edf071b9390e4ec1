import { RallyError } from "../../../infra/errors.ts";
import { type AttentionCheck, runAttentionCheck } from "./attention-check.ts";
import { DENSE_CHECKS } from "./dense-checks.ts";
import { EXPERT_CHECKS } from "./expert-checks.ts";
import type { Verdict } from "./judge.ts";
import { type Place, runCheck } from "./runner.ts";

export interface Checked {
  readonly line: string;
  readonly isRight: boolean;
}

/** Lengths at, before and after the ends of pages; one sequence is done at once. */
const LENGTHS = [1, 64, 65, 200, 128, 300];
const JUDGED_AFTER = [1, 2, 64, 65, 66, 128, 129, 200, 300];
const ATTENTION_CHECKS: readonly AttentionCheck[] = (["e4m3", "bf16"] as const).map((kvType) => ({
  kvType,
  lengths: LENGTHS,
  judgedAfter: JUDGED_AFTER,
}));

/** One line for each check as it is done; a failure of one does not stop the others, as far as the device goes on. */
export function* checkKernels(place: Place): Generator<Checked> {
  const checks = [
    ...[...DENSE_CHECKS, ...EXPERT_CHECKS].map((check) => ({
      op: check.op,
      what: check.what,
      run: (cudaGraph: boolean) => runCheck(check, place, cudaGraph),
    })),
    ...ATTENTION_CHECKS.map((check) => ({
      op: "RopeAppend, MfaDecode",
      what: `${check.kvType}, lengths ${check.lengths.join(" ")}`,
      run: (cudaGraph: boolean) => runAttentionCheck(check, place, cudaGraph),
    })),
  ];
  for (const cudaGraph of place.provider === "cuda" ? [false, true] : [false]) {
    for (const { op, what, run } of checks) {
      const { error, mismatch } = attempt(() => run(cudaGraph));
      const told = mismatch ?? `ok, error ${(100 * error).toFixed(0)} % of what is allowed`;
      const how = cudaGraph ? "replayed" : "run";
      yield { line: `${how.padEnd(9)} ${op.padEnd(22)} ${what.padEnd(40)} ${told}`, isRight: mismatch === undefined };
    }
  }
}

function attempt(run: () => Verdict): Verdict {
  try {
    return run();
  } catch (thrown) {
    const { code, message } = RallyError.from(thrown);
    return { error: Infinity, mismatch: `${code}: ${message}` };
  }
}
