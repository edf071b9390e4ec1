import { describe, expect, it } from "vitest";
import { createActor, initialTransition, transition } from "xstate";
import {
  PING_PONG_EVENTS,
  pingPongMachine,
  type PingPongEvent,
  type PingPongPhase,
} from "../../../actors/attention/ping-pong.machine.ts";
import { derivePhaseTable, measureTransitionMs, nextPhase } from "../../../actors/attention/ping-pong.table.ts";
import { createRequestActor } from "../../../actors/attention/request-actor.ts";
import {
  REQUEST_EVENTS,
  requestMachine,
  type RequestEvent,
  type RequestPhase,
} from "../../../actors/attention/request.machine.ts";

describe("ping-pong machine", () => {
  const legal: Record<PingPongPhase, Partial<Record<PingPongEvent["type"], PingPongPhase>>> = {
    idle: { start: "attending" },
    attending: { attended: "dispatched", completed: "combining", abandon: "idle" },
    dispatched: { answered: "combining", abandon: "idle" },
    combining: { nextLayer: "attending", lastLayer: "sampling" },
    sampling: { sampled: "idle", abandon: "idle" },
  };
  const phases = Object.keys(legal) as PingPongPhase[];

  it("starts idle", () => {
    expect(initialTransition(pingPongMachine)[0].value).toBe("idle");
  });

  for (const phase of phases) {
    for (const type of PING_PONG_EVENTS) {
      const expected = legal[phase][type];
      it(`${phase} + ${type} → ${expected ?? "nothing"}; machine and table agree`, () => {
        const snapshot = pingPongMachine.resolveState({ value: phase });
        const [next] = transition(pingPongMachine, snapshot, { type });
        expect(next.value).toBe(expected ?? phase);
        expect(derivePhaseTable()[phase]?.[type]).toBe(expected);
        if (expected === undefined) expect(() => nextPhase(phase, type)).toThrow(`"${type}" while ${phase}`);
        else expect(nextPhase(phase, type)).toBe(next.value);
      });
    }
  }

  it("has no phase or event beside those", () => {
    expect(Object.keys(pingPongMachine.states).sort()).toEqual([...phases].sort());
    expect(Object.keys(derivePhaseTable()).sort()).toEqual([...phases].sort());
    expect([...pingPongMachine.events].sort()).toEqual([...PING_PONG_EVENTS].sort());
  });

  it("as a table costs a hundredth of what it costs as a machine", () => {
    const rounds = 200;
    let snapshot = initialTransition(pingPongMachine)[0];
    const from = performance.now();
    for (let i = 0; i < rounds; i++) {
      for (const type of ["start", "attended", "answered", "lastLayer", "sampled"] as const) {
        [snapshot] = transition(pingPongMachine, snapshot, { type });
      }
    }
    const machineMs = (performance.now() - from) / (rounds * 5);
    const tableMs = measureTransitionMs(() => performance.now());
    expect(tableMs).toBeGreaterThan(0);
    expect(tableMs * 20).toBeLessThan(machineMs);
  });
});

describe("request machine", () => {
  const endings = { fail: "failed", cancel: "cancelled", fence: "lost" } as const;
  const legal: Record<RequestPhase, Partial<Record<RequestEvent["type"], RequestPhase>>> = {
    queued: { ...endings, admit: "prefilling" },
    prefilling: { ...endings, firstToken: "decoding", finish: "completed" },
    decoding: { ...endings, finish: "completed" },
    completed: {},
    failed: {},
    cancelled: {},
    lost: {},
  };
  const phases = Object.keys(legal) as RequestPhase[];
  const paths: Record<RequestPhase, readonly RequestEvent["type"][]> = {
    queued: [],
    prefilling: ["admit"],
    decoding: ["admit", "firstToken"],
    completed: ["admit", "finish"],
    failed: ["fail"],
    cancelled: ["cancel"],
    lost: ["fence"],
  };

  for (const phase of phases) {
    for (const type of REQUEST_EVENTS) {
      const expected = legal[phase][type] ?? phase;
      it(`${phase} + ${type} → ${expected}`, () => {
        const [next] = transition(requestMachine, requestMachine.resolveState({ value: phase }), { type });
        expect(next.value).toBe(expected);
        expect(next.status).toBe(["queued", "prefilling", "decoding"].includes(expected) ? "active" : "done");
      });

      it(`${phase} + ${type} → ${expected}, as a running actor`, () => {
        const actor = createRequestActor();
        for (const step of paths[phase]) actor.send(step);
        expect(actor.phase).toBe(phase);
        actor.send(type);
        expect(actor.phase).toBe(expected);
        expect(actor.isFinal).toBe(!["queued", "prefilling", "decoding"].includes(expected));
      });
    }
  }

  it("has no phase or event beside those, and exactly one way into each ending", () => {
    expect(Object.keys(requestMachine.states).sort()).toEqual([...phases].sort());
    expect([...requestMachine.events].sort()).toEqual([...REQUEST_EVENTS].sort());
    expect(createActor(requestMachine).getSnapshot().value).toBe("queued");
  });

  it("counts what its transitions cost, and nothing for events after the end", () => {
    const actor = createRequestActor();
    const created = actor.spentMs;
    expect(created).toBeGreaterThan(0);
    actor.send("admit");
    actor.send("cancel");
    const ended = actor.spentMs;
    expect(ended).toBeGreaterThan(created);
    actor.send("fail");
    expect(actor.spentMs).toBe(ended);
  });
});
