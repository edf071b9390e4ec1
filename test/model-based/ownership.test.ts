import { describe, expect, it } from "vitest";
import { TestRandom } from "../support/random-values.ts";
import { quiet } from "../support/turns.ts";
import { explore } from "./ownership/explore.ts";
import { initialState, steps } from "./ownership/model.ts";
import { RealOwners } from "./ownership/real-owners.ts";
import { viewOf } from "./ownership/view.ts";
import { type Action, CALM, isEnd, PRODUCTION, type Rules } from "./ownership/world.ts";

/** RALLY_FUZZ_MESSAGES=1000000 looks further: some millions of states, some minutes. */
const IS_LONG = Number(process.env["RALLY_FUZZ_MESSAGES"] ?? 0) > 100_000;
const MINUTES = 60_000;

const calm = { ...PRODUCTION, crashes: 0 };
const short = { ...calm, numTokens: 1 };
const WORLDS: readonly (readonly [string, Rules, number])[] = [
  ["two tokens", calm, 60_000],
  ["owners that crash", { ...PRODUCTION, numTokens: 1, failures: false }, 40_000],
  ["owners that crash between tokens", { ...PRODUCTION, failures: false, givesBack: 0 }, 70_000],
  ["a done job that comes back", { ...short, redeliveries: 1 }, 15_000],
  ["a duplicate window that passes", { ...short, forgets: 1 }, 40_000],
  ["somebody else who ends the request", { ...short, strangers: 1 }, 35_000],
  ["the request twice in the queue", { ...short, numJobs: 2, maxLostOwners: 1, failures: false, givesBack: 0 }, 50_000],
];
const LONG_WORLDS: typeof WORLDS = [
  ["owners that crash, with failures", { ...PRODUCTION, numTokens: 1 }, 100_000],
  ["two tokens and owners that crash", { ...PRODUCTION, givesBack: 0 }, 150_000],
  ["the request twice in the queue, with failures", { ...short, numJobs: 2, maxLostOwners: 1, givesBack: 0 }, 180_000],
  ["owners that give back twice", { ...short, failures: false, givesBack: 2 }, 60_000],
];

describe("ownership, every state", () => {
  for (const [what, rules, least] of IS_LONG ? [...WORLDS, ...LONG_WORLDS] : WORLDS) {
    it(`keeps its promises: ${what}`, { timeout: 10 * MINUTES }, () => {
      const { counterexample, numStates, endings } = explore(rules);
      expect(counterexample).toBeUndefined();
      // Else the world is smaller than it looks.
      expect(numStates).toBeGreaterThan(least);
      expect(endings).toContain("completed");
      if (rules.failures) expect(endings).toContain("failed");
      if (rules.maxLostOwners > 0) expect(endings).toContain("parked");
      if (rules.strangers > 0) expect(endings).toContain("cancelled");
    });
  }
});

describe("ownership, with a rule taken away", () => {
  const cases: [string, Partial<Rules>, RegExp][] = [
    ["without the fence both write", { fence: false }, /writes no more|each index once|counts the tokens/],
    ["without the claim both would be heard", { claim: false }, /at most one owner/],
    [
      "with append ids that two owners share, the other's entry is taken for one's own",
      { ids: "index", numTokens: 3, crashes: 0, failures: false, givesBack: 0 },
      /at most one owner|writes no more/,
    ],
    ["if the queue did not deliver again, a crash would be the end", { ackWait: false }, /always be reached/],
    [
      "if a fenced owner took the job off the queue, the request would be lost",
      { keepFencedJob: false },
      /done before/,
    ],
  ];
  it.each(cases)("%s", (_, change, promise) => {
    const { counterexample } = explore({ ...PRODUCTION, ...change });
    expect(counterexample?.promise).toMatch(promise);
    expect(counterexample?.actions.length).toBeGreaterThan(1);
  });
});

describe("ownership, the real thing", () => {
  const NUM_WALKS = IS_LONG ? 5_000 : 150;
  const worlds: [string, Rules][] = [
    ["owners that crash", { ...PRODUCTION, numTokens: 3, crashes: 2, strangers: 1 }],
    ["jobs that come back", { ...PRODUCTION, redeliveries: 2 }],
    ["the request twice in the queue", { ...PRODUCTION, numJobs: 2 }],
  ];
  for (const [what, rules] of worlds) {
    it(`attention actors do as the model, on ${NUM_WALKS} walks: ${what}`, { timeout: 10 * MINUTES }, async () => {
      const done = new Set<Action["do"]>();
      const ends = new Set<string>();
      for (let seed = 1; seed <= NUM_WALKS; seed++) {
        const { actions, endings } = await walk(rules, seed);
        for (const { do: kind } of actions) done.add(kind);
        for (const kind of endings) ends.add(kind);
      }
      const usual = [
        "pull",
        "read",
        "generate",
        "store",
        "answer",
        "fail",
        "claimTimeout",
        "giveBack",
        "leaveTimeout",
        "expire",
        "crash",
      ];
      expect([...done]).toEqual(expect.arrayContaining(usual));
      if (rules.redeliveries > 0) expect(done).toContain("redeliver");
      if (rules.strangers > 0) expect(done).toContain("stranger");
      expect(done).toContain("storeOrphan");
      expect([...ends]).toEqual(expect.arrayContaining(["completed", "failed", "parked"]));
    });
  }
});

/** A random way through the model, done by real actors at the same time. */
async function walk(rules: Rules, seed: number) {
  const random = new TestRandom(seed);
  const real = await RealOwners.open(rules);
  const actions: Action[] = [];
  let state = initialState(rules);
  await quiet(2);
  try {
    while (actions.length < 60) {
      const possible = steps(state, rules);
      if (possible.length === 0) break;
      // Mostly what leads on: else hardly any walk would come to an end.
      const calmly = possible.filter((step) => CALM.has(step.action.do) && step.action.do !== "expire");
      const { action, next } = random.pick(calmly.length > 0 && random.below(4) > 0 ? calmly : possible);
      actions.push(action);
      await real.apply(action, state);
      state = next;
      expect(await real.view(), told(actions)).toEqual(viewOf(state));
    }
  } finally {
    await real.close();
  }
  return { actions, endings: state.log.filter(isEnd).map(({ kind }) => kind) };
}

const told = (actions: readonly Action[]): string =>
  actions.map((action) => Object.values(action).join(" ")).join(", ");
