import { beforeEach, describe, expect, test } from "vitest";
import type { FfnSide, Trip } from "../../../actors/attention/ffn-side.ts";
import { type Placed, PlacedFfn } from "../../../actors/attention/placed-ffn.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import type { Pass } from "../../../models/stages.ts";
import { quiet } from "../../support/turns.ts";

const NUM_LAYERS = 2;

/** Experts of one placement that answer when a test says so. */
class FakeSide implements FfnSide {
  readonly placed: Placed;
  readonly trips = new Map<number, { readonly trip: Trip; readonly done: (error?: Error) => void }>();
  readonly creditsInUse = 0;
  isClosed = false;
  broken: Error | undefined;
  /** What is computed here for a trip. */
  here: Promise<void> | undefined;

  constructor(placed: Placed) {
    this.placed = placed;
  }

  get pending(): number {
    return this.trips.size;
  }

  forward(trip: Trip, done: (error?: Error) => void): void | Promise<void> {
    if (this.broken !== undefined) throw this.broken;
    expect(this.isClosed).toBe(false);
    this.trips.set(trip.microBatch, { trip, done });
    return this.here;
  }

  abandon(microBatch: number): void {
    this.trips.delete(microBatch);
  }

  close(): void {
    this.isClosed = true;
  }

  answer(microBatch: number, error?: Error): void {
    const under = this.trips.get(microBatch);
    this.trips.delete(microBatch);
    under?.done(error);
  }
}

let clock: SimulatedClock;
let sides: FakeSide[];
let ffn: PlacedFfn;
let answers: string[];

beforeEach(() => {
  clock = new SimulatedClock();
  sides = [];
  answers = [];
  ffn = new PlacedFfn({
    clock,
    numLayers: NUM_LAYERS,
    open(placed) {
      const side = new FakeSide(placed);
      sides.push(side);
      return side;
    },
  });
  ffn.place({ epoch: 1, numShards: 2 });
});

const pass = {} as Pass;

function send(passId: number, layer: number, microBatch = 0): void | Promise<void> {
  const done = (error?: Error) => void answers.push(error?.message ?? `${passId}.${layer}`);
  return ffn.forward({ passId, microBatch, layer, pass }, done);
}

function underWay(): string[] {
  return sides.flatMap(({ placed, trips }) => [...trips.values()].map(({ trip }) => `${placed.epoch}: ${trip.layer}`));
}

test("a pass stays with its placement through all layers; the next goes to the new one, and the old one is closed", () => {
  void send(1, 0);
  ffn.place({ epoch: 2, numShards: 3 });
  sides[0]?.answer(0);
  void send(1, 1);
  expect(underWay()).toEqual(["1: 1"]);
  expect(sides[0]?.isClosed).toBe(false);
  sides[0]?.answer(0);
  expect(sides[0]?.isClosed).toBe(true);
  void send(2, 0);
  expect(underWay()).toEqual(["2: 0"]);
  expect(sides[1]?.placed).toEqual({ epoch: 2, numShards: 3 });
  expect(answers).toEqual(["1.0", "1.1"]);
  expect([ffn.pending, ffn.creditsInUse]).toEqual([1, 0]);
});

test("each micro-batch goes over by itself", () => {
  void send(1, 0, 0);
  void send(2, 0, 1);
  ffn.place({ epoch: 2, numShards: 3 });
  sides[0]?.answer(0);
  void send(3, 0, 0);
  expect(underWay()).toEqual(["1: 0", "2: 0"]);
  expect(sides[0]?.isClosed).toBe(false);
  sides[0]?.answer(1, new Error("broken"));
  expect(sides[0]?.isClosed).toBe(true);
  expect(answers).toEqual(["1.0", "broken"]);
});

test("an older placement, or the same again, changes nothing", () => {
  ffn.place({ epoch: 2, numShards: 3 });
  ffn.place({ epoch: 1, numShards: 2 });
  ffn.place({ epoch: 2, numShards: 3 });
  expect(sides).toHaveLength(2);
  expect(sides[0]?.isClosed).toBe(true);
});

describe("a pass whose experts do not answer any more", () => {
  test("goes on with the new ones where it stands", () => {
    void send(1, 1);
    ffn.place({ epoch: 2, numShards: 3 });
    clock.advance(2_999);
    expect(underWay()).toEqual(["1: 1"]);
    clock.advance(1);
    expect(underWay()).toEqual(["2: 1"]);
    expect(sides[0]?.isClosed).toBe(true);
    sides[1]?.answer(0);
    expect(answers).toEqual(["1.1"]);
    expect(clock.pending).toBe(0);
  });

  test("also one that was between two layers", () => {
    void send(1, 0);
    sides[0]?.answer(0);
    ffn.place({ epoch: 2, numShards: 3 });
    clock.advance(3_000);
    expect(sides[0]?.isClosed).toBe(true);
    void send(1, 1);
    expect(underWay()).toEqual(["2: 1"]);
  });

  test("fails if it cannot even begin there", () => {
    void send(1, 0);
    ffn.place({ epoch: 2, numShards: 3 });
    const [, second] = sides;
    if (second !== undefined) second.broken = new Error("too large");
    clock.advance(3_000);
    expect(answers).toEqual(["too large"]);
  });

  test("fails if what is computed here for it fails, unless it was abandoned meanwhile", async () => {
    for (const isWanted of [true, false]) {
      answers = [];
      void send(1, 0);
      ffn.place({ epoch: sides.length + 1, numShards: 3 });
      let fail: (error: Error) => void = () => undefined;
      const newest = sides.at(-1) as FakeSide;
      newest.here = new Promise((_, reject) => (fail = reject));
      clock.advance(3_000);
      if (!isWanted) ffn.abandon(0);
      fail(new Error("no memory"));
      await quiet();
      expect(answers).toEqual(isWanted ? ["no memory"] : []);
      expect(ffn.pending).toBe(0);
      newest.here = undefined;
    }
  });
});

test("what is computed here for a trip is waited for", async () => {
  let end: () => void = () => undefined;
  (sides[0] as FakeSide).here = new Promise((resolve) => (end = resolve));
  let isOver = false;
  const sent = Promise.resolve(send(1, 0)).then(() => (isOver = true));
  await quiet();
  expect(isOver).toBe(false);
  end();
  await sent;
});

test("an abandoned trip is not waited for", () => {
  void send(1, 0);
  ffn.place({ epoch: 2, numShards: 3 });
  ffn.abandon(0);
  expect(sides[0]?.isClosed).toBe(true);
  expect([ffn.pending, answers.length]).toEqual([0, 0]);
  ffn.abandon(7);
});

test("a trip that cannot begin leaves nothing", () => {
  const [first] = sides;
  if (first !== undefined) first.broken = new Error("too large");
  expect(() => send(1, 0)).toThrow("too large");
  ffn.place({ epoch: 2, numShards: 3 });
  expect(first?.isClosed).toBe(true);
});

test("closing closes all of them", () => {
  void send(1, 0);
  ffn.place({ epoch: 2, numShards: 3 });
  ffn.close();
  expect(sides.map(({ isClosed }) => isClosed)).toEqual([true, true]);
  expect(clock.pending).toBe(0);
});
