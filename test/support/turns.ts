import { setImmediate as turn } from "node:timers/promises";

/** Lets the event loop turn until `condition` holds; throws after `limit` turns. No time passes for a simulated clock. */
export async function until(condition: () => boolean, what = "the condition", limit = 20_000): Promise<void> {
  for (let turns = 0; turns < limit; turns++) {
    if (condition()) return;
    await turn();
  }
  throw new Error(`${what} does not hold after ${limit} turns`);
}

/** Lets everything happen that can happen without time passing. */
export async function quiet(turns = 25): Promise<void> {
  for (let i = 0; i < turns; i++) await turn();
}
