import { describe, expect, it } from "vitest";
import { mostMicroBatches } from "../../../actors/attention/auto-micro-batches.ts";
import { EngineMeter } from "../../../actors/attention/engine-meter.ts";
import { TraceBuffer } from "../../../actors/protocol/trace-buffer.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

function open() {
  const clock = new SimulatedClock();
  const trace = new TraceBuffer({ enabled: true, clock, processId: 7 });
  return { clock, trace, meter: new EngineMeter({ clock, trace, warn: () => undefined }) };
}

const hop = (wireMs: number, expertMs: number) => ({
  microBatch: 1,
  layer: 2,
  shard: 0,
  sentAt: 100,
  answeredAt: 100 + wireMs + expertMs,
  expertMs,
  bytes: 1_000,
});

describe("the engine's meter", () => {
  it("adds up computing, bubbles and hops, and writes them to the trace", () => {
    const { clock, trace, meter } = open();
    clock.advance(50);
    meter.computed("attention", 0, 3, 10, 14);
    meter.computed("head", 0, 8, 20, 21);
    meter.waited(14, 20);
    meter.hop(hop(4, 6));
    expect(meter.sums).toMatchObject({ elapsedMs: 50, busyMs: 5, bubbleMs: 6, hops: 1, hopBytes: 1_000, hopWireMs: 4 });
    const spans = trace.take();
    expect(spans.map(({ name, dur, tid }) => [name, dur, tid])).toEqual([
      ["attention 3", 4_000, 0],
      ["head", 1_000, 0],
      ["bubble", 6_000, 0],
      ["layer 2 shard 0", 10_000, 2],
    ]);
  });

  it("chooses m ≥ 2(1 + Tc/Tf) micro-batches, within the limit", () => {
    const { meter } = open();
    expect(meter.microBatches(4)).toBe(2);
    // Tc is one way: half of the wire time.
    for (let i = 0; i < 1_000; i++) meter.hop(hop(1, 1));
    expect(meter.microBatches(4)).toBe(3);
    for (let i = 0; i < 1_000; i++) meter.hop(hop(4, 1));
    expect(meter.microBatches(4)).toBe(4);
    expect(meter.microBatches(1)).toBe(1);
  });

  it("lets one host's cores bound what shares them", () => {
    const most = (numCores: number, numShards: number) => mostMicroBatches({ numCores, isShared: true, numShards });
    expect([1, 2, 3, 4, 8, 64].map((numCores) => most(numCores, 2))).toEqual([1, 1, 2, 2, 4, 4]);
    expect([1, 2, 3, 4, 8].map((numCores) => most(numCores, 1))).toEqual([1, 2, 2, 2, 4]);
    expect(most(4, 8)).toBe(2);
    expect(mostMicroBatches({ numCores: 2, isShared: false, numShards: 2 })).toBe(4);
  });
});
