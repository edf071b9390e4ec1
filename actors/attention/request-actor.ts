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

export function createRequestActor(): RequestActor {
  const createdAt = performance.now();
  const actor = createActor(requestMachine).start();
  let phase: RequestPhase = actor.getSnapshot().value;
  let isFinal = false;
  let spentMs = performance.now() - createdAt;
  return {
    send(type) {
      if (isFinal) return;
      const from = performance.now();
      actor.send({ type });
      const snapshot = actor.getSnapshot();
      phase = snapshot.value;
      isFinal = snapshot.status !== "active";
      spentMs += performance.now() - from;
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
