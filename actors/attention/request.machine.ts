import { setup } from "xstate";

/**
 * A request's life at its owner. Final states: `completed`, `failed` and `cancelled` have a terminal event in the token log;
 * `lost` has none, because the request went back to the queue or another attention actor owns it now and will write it.
 *
 *     queued ─admit→ prefilling ─firstToken→ decoding ─finish→ completed
 *        └────────────────┴──────────────────────┴─ fail → failed, cancel → cancelled, fence → lost
 *
 * It is told of changes of phase, never of every token.
 */
export type RequestEvent =
  | { readonly type: "admit" }
  | { readonly type: "firstToken" }
  | { readonly type: "finish" }
  | { readonly type: "fail" }
  | { readonly type: "cancel" }
  | { readonly type: "fence" };

export type RequestPhase = "queued" | "prefilling" | "decoding" | "completed" | "failed" | "cancelled" | "lost";

export const REQUEST_EVENTS: readonly RequestEvent["type"][] = [
  "admit",
  "firstToken",
  "finish",
  "fail",
  "cancel",
  "fence",
];

const endings = { fail: "failed", cancel: "cancelled", fence: "lost" } as const;

export const requestMachine = setup({ types: { events: {} as RequestEvent } }).createMachine({
  id: "request",
  initial: "queued",
  states: {
    queued: { on: { ...endings, admit: "prefilling" } },
    // A takeover may find that the log holds everything but the ending.
    prefilling: { on: { ...endings, firstToken: "decoding", finish: "completed" } },
    decoding: { on: { ...endings, finish: "completed" } },
    completed: { type: "final" },
    failed: { type: "final" },
    cancelled: { type: "final" },
    lost: { type: "final" },
  },
});
