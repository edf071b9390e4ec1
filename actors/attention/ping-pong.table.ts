import { initialTransition, transition } from "xstate";
import { assert } from "../../infra/errors.ts";
import { PING_PONG_EVENTS, pingPongMachine, type PingPongEvent, type PingPongPhase } from "./ping-pong.machine.ts";

/** phase → event → next phase; an event that the machine ignores in a phase has no entry. */
export type PhaseTable = Readonly<Record<string, Readonly<Record<string, PingPongPhase>>>>;

/**
 * The machine flattened by walking its pure transition over every state it can reach. A transition of the machine takes about
 * 12 µs and the layer loop makes four per layer; a look-up takes nanoseconds. The test proves both equal.
 */
export function derivePhaseTable(): PhaseTable {
  const table: Record<string, Record<string, PingPongPhase>> = {};
  const [initial] = initialTransition(pingPongMachine);
  const frontier = [initial];
  for (let snapshot = frontier.pop(); snapshot !== undefined; snapshot = frontier.pop()) {
    const row: Record<string, PingPongPhase> = {};
    table[snapshot.value] = row;
    for (const type of PING_PONG_EVENTS) {
      if (!snapshot.can({ type })) continue;
      const [next] = transition(pingPongMachine, snapshot, { type });
      row[type] = next.value;
      if (table[next.value] === undefined) frontier.push(next);
    }
  }
  return table;
}

const table = derivePhaseTable();

/** The phase after `event`. An event out of order is a bug of ours. */
export function nextPhase(phase: PingPongPhase, event: PingPongEvent["type"]): PingPongPhase {
  const next = table[phase]?.[event];
  assert(next !== undefined, `micro-batch takes "${event}" while ${phase}`);
  return next;
}

/** What one transition costs on this machine, for statistics: timing each of them would cost more than making it. */
export function measureTransitionMs(elapsed: () => number, numRounds = 10_000): number {
  const way: readonly PingPongEvent["type"][] = ["start", "attended", "answered", "lastLayer", "sampled"];
  let phase: PingPongPhase = "idle";
  const from = elapsed();
  for (let round = 0; round < numRounds; round++) for (const event of way) phase = nextPhase(phase, event);
  assert(phase === "idle", "a whole pass ends where it began");
  return (elapsed() - from) / (numRounds * way.length);
}
