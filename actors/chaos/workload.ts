import { SeededRandom } from "../../infra/chaos/seeded.ts";
import type { SamplingParams } from "../../models/sampling/params.ts";
import type { LengthRange, LoadPlan } from "./scenario.ts";

/** One of the different requests of a run. */
export interface PoolRequest {
  readonly index: number;
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  readonly sampling: Partial<SamplingParams>;
  readonly deadlineMs: number;
}

const TEXT = `Once upon a time there was a little girl who lived with her grandmother in a small house at the edge of a great
forest, and every evening the old woman sat by the fire and told her how the fox had come to the door, what the wind had said
to the chimney, and why the king of the hills had sent his three sons out to sea. "Who are you?" said the captain. It was late,
the snow lay deep upon the road, and nobody in the inn knew what to do with the letter that the stranger had left behind.`;

/** The different requests of a load; the seed alone decides them. */
export function workload(
  load: LoadPlan,
  model: { readonly encode: (text: string) => readonly number[]; readonly bosTokenId: number | undefined },
  seed: number,
): PoolRequest[] {
  const text = model.encode(TEXT);
  return Array.from({ length: load.distinct }, (_, index) => {
    const random = new SeededRandom(seed, `request-${index}`);
    const numPrompt = lengthFrom(load.promptTokens, random);
    const from = random.integer(0, text.length - 1);
    const ids = Array.from({ length: numPrompt }, (__, i) => text[(from + i) % text.length] ?? 0);
    return {
      index,
      prompt: model.bosTokenId === undefined ? ids : [model.bosTokenId, ...ids],
      maxTokens: lengthFrom(load.outputTokens, random),
      sampling: { ...random.weighted(load.sampling).params, seed: random.integer(0, 2 ** 31) },
      deadlineMs: load.deadlineMs,
    };
  });
}

function lengthFrom(ranges: readonly LengthRange[], random: SeededRandom): number {
  const { min, max } = random.weighted(ranges);
  return random.integer(min, max);
}
