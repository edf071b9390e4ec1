import { expect } from "vitest";
import type { Generation, GenerationResult } from "../../actors/client/rally-client.ts";
import { RallyError } from "../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../models/sampling/params.ts";
import type { FuzzDeployment } from "../support/fuzz-deployment.ts";
import { referenceTokens } from "../support/reference-tokens.ts";

const NUM_BYSTANDERS = 3;
export const GIVE_UP_MS = 120_000;

/** Requests that nobody attacks, and their tokens. */
export const SPEAKERS = await Promise.all(
  Array.from({ length: 6 }, async (_, i) => {
    const prompt = Array.from({ length: 3 + 5 * i }, (__, at) => 2 + ((i * 31 + at * 7) % 90));
    const sampling = { ...DEFAULT_SAMPLING, temperature: i % 2 === 0 ? 0 : 0.9, seed: i };
    const maxTokens = 6 + i;
    const tokens = await referenceTokens({
      key: 1,
      tokenIds: prompt,
      numPromptTokens: prompt.length,
      maxTokens,
      sampling,
      logprobs: undefined,
    });
    return { options: { prompt, sampling, maxTokens, deadlineMs: 3_600_000 }, tokens };
  }),
);

/** A request and what became of it. */
export class Watched {
  readonly requestId: string;
  readonly tokens: readonly number[];
  outcome: GenerationResult | RallyError | undefined;
  /** Somebody else has spoken as its owner, and well enough to be believed. */
  isForged = false;

  constructor(generation: Generation, tokens: readonly number[]) {
    this.requestId = generation.requestId;
    this.tokens = tokens;
    generation.result.then(
      (result) => (this.outcome = result),
      (thrown: unknown) => (this.outcome = RallyError.from(thrown)),
    );
  }
}

/** Requests that go on meanwhile, each compared with what it must get. */
export class Crowd {
  readonly #deployment: FuzzDeployment;
  #underWay: Watched[] = [];
  #next = 0;
  numServed = 0;

  get numStarted(): number {
    return this.#next;
  }

  constructor(deployment: FuzzDeployment) {
    this.#deployment = deployment;
  }

  keepBusy(): void {
    this.#look();
    while (this.#underWay.length < NUM_BYSTANDERS) {
      const speaker = SPEAKERS[this.#next++ % SPEAKERS.length];
      if (speaker === undefined) throw new Error("nobody speaks");
      const generation = this.#deployment.client.generate({ ...speaker.options, requestId: `bystander-${this.#next}` });
      this.#underWay.push(new Watched(generation, speaker.tokens));
    }
  }

  async settled(): Promise<void> {
    for (let ms = 0; this.#underWay.length > 0; ms += 50) {
      if (ms > GIVE_UP_MS) throw new Error("bystanders are held up");
      await this.#deployment.turn(50);
      this.#look();
    }
  }

  #look(): void {
    for (const { outcome, tokens } of this.#underWay) {
      if (outcome instanceof RallyError) throw outcome;
      if (outcome === undefined) continue;
      expect(outcome.tokenIds, outcome.requestId).toEqual(tokens);
      this.numServed++;
    }
    this.#underWay = this.#underWay.filter(({ outcome }) => outcome === undefined);
  }
}
