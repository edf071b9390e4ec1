import { createActor } from "xstate";
import { requestMachine, type RequestEvent, type RequestPhase } from "./request.machine.ts";

/** A running request machine, with what its transitions have cost. */
export interface RequestActor {
  /** An event that the present phase does not know is ignored. */
  send(type: RequestEvent["type"]): void;
  readonly phase: RequestPhase;
  readonly isFinal: boolean;
  readonly spentMs: number;
}

/** What takes longer was interrupted: this thread waits for a core while the engine wants it. */
const LONGEST_MS = 0.5;

export function createRequestActor(): RequestActor {
  const createdAt = performance.now();
  const actor = createActor(requestMachine).start();
  let phase: RequestPhase = actor.getSnapshot().value;
  let isFinal = false;
  let spentMs = spentSince(createdAt);
  return {
    send(type) {
      if (isFinal) return;
      const from = performance.now();
      actor.send({ type });
      const snapshot = actor.getSnapshot();
      phase = snapshot.value;
      isFinal = snapshot.status !== "active";
      spentMs += spentSince(from);
    },
    get phase() {
      return phase;
    },
    get isFinal() {
      return isFinal;
    },
    get spentMs() {
      return spentMs;
    },
  };
}

function spentSince(from: number): number {
  return Math.min(LONGEST_MS, performance.now() - from);
}
