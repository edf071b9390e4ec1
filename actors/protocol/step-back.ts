import { constants, getPriority, setPriority } from "node:os";

/** In contention this leaves the control thread a tenth of what a computing thread gets: more than twice what it needs. */
const STEPS = 10;

/**
 * Lets threads that compute go first: a whole pass waits for the engine's, nobody notices when a token is logged a millisecond later. To
 * be called by the main thread once the others exist, as those that it starts later inherit it. Only on Linux is niceness a thread's own.
 */
export function stepBack(): void {
  if (process.platform === "linux") setPriority(Math.min(constants.priority.PRIORITY_LOW, getPriority() + STEPS));
}
