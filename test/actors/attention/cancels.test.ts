import { describe, expect, it } from "vitest";
import { Cancels } from "../../../actors/attention/cancels.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

function open() {
  const clock = new SimulatedClock();
  const ended: string[] = [];
  return { clock, ended, cancels: new Cancels(clock, (requestId) => void ended.push(requestId)) };
}

describe("Cancels", () => {
  it("remembers for ten minutes, and asks once, when the owner has had its time", () => {
    const { clock, ended, cancels } = open();
    cancels.add("r");
    clock.advance(400);
    cancels.add("r");
    expect(cancels.has("r")).toBe(true);
    expect(ended).toEqual([]);
    clock.advance(100);
    expect(ended).toEqual(["r"]);
    clock.advance(599_499);
    expect(cancels.has("r")).toBe(true);
    expect(ended).toEqual(["r"]);
    clock.advance(1);
    expect(cancels.has("r")).toBe(false);
    expect(cancels.has("other")).toBe(false);
  });

  it("keeps bounds when it is flooded: the oldest are forgotten, few are asked for", () => {
    const { clock, ended, cancels } = open();
    for (let i = 0; i < 20_000; i++) cancels.add(`r${i}`);
    expect(clock.pending).toBe(256);
    expect(cancels.has("r0")).toBe(false);
    expect(cancels.has("r9999")).toBe(false);
    expect(cancels.has("r10000")).toBe(true);
    expect(cancels.has("r19999")).toBe(true);
    clock.advance(1000);
    expect(ended).toHaveLength(256);
    cancels.add("later");
    clock.advance(500);
    expect(ended.at(-1)).toBe("later");
  });

  it("closed asks for nothing more", () => {
    const { clock, ended, cancels } = open();
    cancels.add("r");
    cancels.close();
    expect(clock.pending).toBe(0);
    clock.advance(1000);
    expect(ended).toEqual([]);
  });
});
