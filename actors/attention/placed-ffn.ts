import type { Clock, Timer } from "../../infra/clock.ts";
import { assert } from "../../infra/errors.ts";
import type { FfnSide, Trip } from "./ffn-side.ts";

/** The experts of one placement. */
type Side = FfnSide & { close(): void };

/** As much of a placement as dispatching needs. */
export interface Placed {
  readonly epoch: number;
  readonly numShards: number;
  /** As the placement has it. */
  readonly sharedExperts?: "attention";
}

export interface PlacedFfnOptions {
  readonly clock: Clock;
  readonly numLayers: number;
  readonly open: (placed: Placed) => Side;
}

/** Where a micro-batch's present pass goes. */
interface Route {
  readonly passId: number;
  side: Side;
  trip: UnderWay | undefined;
}

interface UnderWay {
  readonly trip: Trip;
  readonly done: (error?: Error) => void;
}

/** A pass that is still under way then may wait for experts that are gone. */
const MOVE_AFTER_MS = 3_000;

/**
 * Dispatch while shards move: a pass that begins goes to the newest placement, and stays with it through all layers, so that a
 * token is computed by one placement. Only one that takes too long goes on with the newest where it stands.
 */
export class PlacedFfn implements FfnSide {
  readonly #options: PlacedFfnOptions;
  /** By micro-batch. */
  readonly #routes = new Map<number, Route>();
  readonly #sides = new Set<Side>();
  #newest: Side | undefined;
  #epoch = 0;
  #move: Timer | undefined;

  constructor(options: PlacedFfnOptions) {
    this.#options = options;
  }

  get pending(): number {
    let count = 0;
    for (const side of this.#sides) count += side.pending;
    return count;
  }

  get creditsInUse(): number {
    let count = 0;
    for (const side of this.#sides) count += side.creditsInUse;
    return count;
  }

  /** The placement as of now. One that is older than the newest is none. */
  place(placed: Placed): void {
    if (placed.epoch <= this.#epoch) return;
    this.#epoch = placed.epoch;
    this.#newest = this.#options.open(placed);
    this.#sides.add(this.#newest);
    this.#closeUnused();
    this.#move?.cancel();
    this.#move = this.#options.clock.after(MOVE_AFTER_MS, () => this.#moveAll());
  }

  forward(trip: Trip, done: (error?: Error) => void): void | Promise<void> {
    assert(this.#newest !== undefined, "there is a placement before there is a request");
    const { microBatch, passId } = trip;
    let route = this.#routes.get(microBatch);
    if (route?.passId !== passId) {
      route = { passId, side: this.#newest, trip: undefined };
      this.#routes.set(microBatch, route);
      this.#closeUnused();
    }
    return this.#send(route, trip, done);
  }

  abandon(microBatch: number): void {
    const route = this.#routes.get(microBatch);
    this.#routes.delete(microBatch);
    if (route?.trip !== undefined) route.side.abandon(microBatch);
    this.#closeUnused();
  }

  close(): void {
    this.#move?.cancel();
    for (const side of this.#sides) side.close();
    this.#sides.clear();
    this.#routes.clear();
  }

  #send(route: Route, trip: Trip, done: (error?: Error) => void): void | Promise<void> {
    route.trip = { trip, done };
    try {
      return route.side.forward(trip, (error) => {
        route.trip = undefined;
        if (error !== undefined || trip.layer === this.#options.numLayers - 1) this.#end(trip.microBatch, route);
        done(error);
      });
    } catch (thrown) {
      this.#end(trip.microBatch, route);
      throw thrown;
    }
  }

  #end(microBatch: number, route: Route): void {
    if (this.#routes.get(microBatch) === route) this.#routes.delete(microBatch);
    this.#closeUnused();
  }

  #moveAll(): void {
    const newest = this.#newest;
    for (const [microBatch, route] of this.#routes) {
      if (newest === undefined || route.side === newest) continue;
      const { side, trip: underWay } = route;
      route.side = newest;
      if (underWay === undefined) continue;
      side.abandon(microBatch);
      void this.#sendOn(route, underWay);
    }
    this.#closeUnused();
  }

  /** Nobody waits for what is computed here then: a failure is an answer. */
  async #sendOn(route: Route, { trip, done }: UnderWay): Promise<void> {
    let here: void | Promise<void>;
    try {
      here = this.#send(route, trip, done);
    } catch (thrown) {
      return done(thrown as Error);
    }
    try {
      await here;
    } catch (thrown) {
      if (this.#routes.get(trip.microBatch) !== route || route.trip?.trip !== trip) return;
      this.abandon(trip.microBatch);
      done(thrown as Error);
    }
  }

  #closeUnused(): void {
    if (this.#sides.size < 2) return;
    const used = new Set([...this.#routes.values()].map(({ side }) => side));
    for (const side of this.#sides) {
      if (side === this.#newest || used.has(side)) continue;
      side.close();
      this.#sides.delete(side);
    }
  }
}
