import { setup } from "xstate";

/**
 * One micro-batch's way through the layers: while this one is `dispatched`, the attention actor attends another.
 *
 *     idle ─start→ attending ─attended→ dispatched ─answered→ combining ─nextLayer→ attending
 *                                                                       └lastLayer→ sampling ─sampled→ idle
 *
 * `completed` takes a layer that needs no experts from attending to combining. `abandon` ends a trip whose sequences are all gone, or whose graph failed.
 */
export type PingPongEvent =
  | { readonly type: "start" }
  | { readonly type: "attended" }
  | { readonly type: "completed" }
  | { readonly type: "answered" }
  | { readonly type: "nextLayer" }
  | { readonly type: "lastLayer" }
  | { readonly type: "sampled" }
  | { readonly type: "abandon" };

export type PingPongPhase = "idle" | "attending" | "dispatched" | "combining" | "sampling";

export const PING_PONG_EVENTS: readonly PingPongEvent["type"][] = [
  "start",
  "attended",
  "completed",
  "answered",
  "nextLayer",
  "lastLayer",
  "sampled",
  "abandon",
];

export const pingPongMachine = setup({ types: { events: {} as PingPongEvent } }).createMachine({
  id: "pingPong",
  initial: "idle",
  states: {
    idle: { on: { start: "attending" } },
    attending: { on: { attended: "dispatched", completed: "combining", abandon: "idle" } },
    dispatched: { on: { answered: "combining", abandon: "idle" } },
    // Left as soon as it is entered: nothing can come in between.
    combining: { on: { nextLayer: "attending", lastLayer: "sampling" } },
    sampling: { on: { sampled: "idle", abandon: "idle" } },
  },
});
