import { type AnyMachineSnapshot, type AnyStateMachine, getInitialSnapshot, getNextSnapshot } from "xstate";
import { adjacencyMapToArray, createTestModel } from "xstate/graph";

/** A way through a machine, and the states it passes: `states[i]` after `events[i]`. */
export interface Way {
  readonly told: string;
  readonly events: readonly string[];
  readonly states: readonly string[];
}

/**
 * Every simple path through a machine, and each of them once more with each event at its end: so every state is reached in
 * every way that does not turn in circles, and every event comes in every state, those that the state ignores too.
 */
export function ways(machine: AnyStateMachine, eventTypes: readonly string[]): Way[] {
  const model = createTestModel(machine, { events: eventTypes.map((type) => ({ type })) });
  const found = new Map<string, Way>();
  for (const { steps } of model.getSimplePaths({ allowDuplicatePaths: true })) {
    const events = steps.slice(1).map(({ event }) => event.type);
    for (const more of [[], ...eventTypes.map((type) => [type])]) {
      const all = [...events, ...more];
      found.set(all.join(), { told: all.join(", ") || "nothing", events: all, states: statesOf(machine, all) });
    }
  }
  return [...found.values()];
}

function statesOf(machine: AnyStateMachine, events: readonly string[]): string[] {
  let snapshot: AnyMachineSnapshot = getInitialSnapshot(machine);
  return events.map((type) => {
    if (snapshot.status === "active") snapshot = getNextSnapshot(machine, snapshot, { type });
    return String(snapshot.value);
  });
}

/** `state+event` of every transition that a machine has. */
export function transitionsOf(machine: AnyStateMachine, eventTypes: readonly string[]): string[] {
  const model = createTestModel(machine, { events: eventTypes.map((type) => ({ type })) });
  const all = adjacencyMapToArray(model.getAdjacencyMap());
  return [...new Set(all.map(({ state, event }) => `${String(state.value)}+${event.type}`))].sort();
}
