import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { FuzzDeployment } from "../support/fuzz-deployment.ts";
import { FUZZ_SEED, FUZZ_TIMEOUT_MS, MemoryWatch, NUM_FUZZ_MESSAGES } from "../support/fuzz-run.ts";
import { FuzzRandom } from "../support/mutations.ts";
import { Attack } from "./attack.ts";
import { Crowd } from "./crowd.ts";

/** Messages between two looks at how the requests do. */
const PER_TURN = 20;
const MS_PER_TURN = 50;

describe(`${NUM_FUZZ_MESSAGES} mutated and random messages on every subject, seed ${FUZZ_SEED}`, () => {
  let deployment: FuzzDeployment;
  beforeEach(async () => {
    deployment = await FuzzDeployment.open();
  });
  afterEach(() => deployment.close());

  it(
    "nobody dies, nothing grows, and the requests of others get their tokens",
    async () => {
      const random = new FuzzRandom(FUZZ_SEED);
      const memory = new MemoryWatch(NUM_FUZZ_MESSAGES);
      const crowd = new Crowd(deployment);
      const attack = new Attack(deployment, crowd, random);
      crowd.keepBusy();
      await deployment.turn(MS_PER_TURN);
      for (let number = 0; number < NUM_FUZZ_MESSAGES; number++) {
        memory.at(number);
        await attack.message(number);
        if (number % PER_TURN !== 0) continue;
        crowd.keepBusy();
        await deployment.turn(MS_PER_TURN);
      }
      await attack.settled();
      await crowd.settled();
      for (let ms = 0; ms < 5_000; ms += 100) await deployment.turn(100);
      expect(crowd.numServed).toBeGreaterThan(NUM_FUZZ_MESSAGES / 1_000);
      expect(attack.numVictims).toBeGreaterThan(NUM_FUZZ_MESSAGES / 200);
      expect(attack.numUnharmed).toBeGreaterThan(NUM_FUZZ_MESSAGES / 400);
      expect(attack.numGivenUp).toBeLessThan(attack.numUnharmed / 20);
      expect(await deployment.held()).toEqual({
        owned: 0,
        activeSequences: 0,
        kvTokens: 0,
        underWay: false,
        pending: 0,
        credits: 0,
        waiting: 0,
        jobs: 0,
      });
      expect(memory.growth("subjects")).toBeLessThan(12);
      // Everybody had something to refuse.
      const { expert, dispatch, placement } = deployment.numBad;
      for (const count of [expert, dispatch, placement, deployment.numBadRequests]) {
        expect(count).toBeGreaterThan(NUM_FUZZ_MESSAGES / 100);
      }
    },
    FUZZ_TIMEOUT_MS,
  );
});
