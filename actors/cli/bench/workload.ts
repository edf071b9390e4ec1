import type { Tokenizer } from "../../../models/tokenizer/tokenizer.ts";

/** Openings that the bundled model goes on from for long; a request's prompt is one of them cut to its length. */
const OPENINGS = [
  "Once upon a time there was a little girl who lived with her grandmother in a small house at the edge of a great forest, and",
  "The old captain put down his glass, looked long and hard at the grey line of the coast, and said that in forty years at sea he",
  "It was late in the evening when the coach stopped at the inn, and the travellers, tired and wet through with the rain, came in",
  "My father was a poor man, but he had three sons, of whom I was the youngest, and when he felt that he was about to die he",
  "The fox said to the crow that he had never in his life heard so fine a voice, and that all the birds of the wood would come",
  "In the morning the snow lay deep upon the hills, and the children ran out of doors with shouts of joy, for they had never seen",
  "She had not been gone an hour when the letter came, and nobody in the house knew what to do with it, until the housekeeper",
  "There are few things so pleasant as to sit by a good fire on a winter's night and to listen to the wind, which",
];

export interface BenchRequest {
  readonly tokenIds: readonly number[];
  readonly seed: number;
}

/** `count` prompts of 12 to 27 tokens, the same ones for every run. */
export function workload(tokenizer: Tokenizer, bosTokenId: number | undefined, count: number): BenchRequest[] {
  return Array.from({ length: count }, (_, i) => {
    const opening = OPENINGS[i % OPENINGS.length] as string;
    const ids = tokenizer.encode(opening).slice(0, 12 + ((i * 7) % 16));
    return { tokenIds: bosTokenId === undefined ? ids : [bosTokenId, ...ids], seed: i };
  });
}
