import type { Clock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { Placement } from "../protocol/messages.ts";
import type { Placements } from "../protocol/placement.ts";
import { checkSensible, isSensible } from "./membership.ts";

export interface PlacementKeeperOptions {
  readonly placements: Placements;
  /** The current one, as far as is known. */
  readonly last: Placement;
  readonly numExperts: number;
  readonly clock: Clock;
  readonly host: (placement: Placement) => void;
  readonly warn: (text: string) => void;
  readonly isStopping: () => boolean;
}

const TRY_AGAIN_MS = 1_000;

/**
 * Has the placements to come hosted, and puts the last good one back in the place of a current one that makes no sense: actors
 * that run go on by what they know, but none could start.
 */
export class PlacementKeeper {
  readonly #options: PlacementKeeperOptions;
  #last: Placement;

  constructor(options: PlacementKeeperOptions) {
    this.#options = options;
    this.#last = options.last;
  }

  async follow(): Promise<void> {
    const { placements, warn } = this.#options;
    await Promise.all([
      placements.watch(
        "current",
        (placement) => this.#changed(placement),
        (why) => void this.#restore(why),
      ),
      placements.watch("next", (placement) => this.#announced(placement), warn),
    ]);
  }

  #changed(placement: Placement): void {
    const { numExperts, host } = this.#options;
    if (placement.modelHash === this.#last.modelHash) {
      try {
        checkSensible(placement, numExperts);
      } catch (thrown) {
        return void this.#restore(RallyError.from(thrown).message);
      }
      this.#last = placement;
    }
    host(placement);
  }

  #announced(placement: Placement): void {
    const { numExperts, host, warn } = this.#options;
    // One without shards takes back what was announced.
    if (placement.shards.length === 0) return;
    try {
      if (placement.modelHash === this.#last.modelHash) checkSensible(placement, numExperts);
      host(placement);
    } catch (thrown) {
      warn(RallyError.from(thrown).message);
    }
  }

  async #restore(why: string): Promise<void> {
    const { placements, numExperts, clock, warn, isStopping } = this.#options;
    warn(`${why}; placement ${this.#last.epoch} is put back`);
    const isBad = (current: Placement) =>
      current.modelHash === this.#last.modelHash && !isSensible(current, numExperts);
    while (!isStopping()) {
      try {
        return void (await placements.restore(this.#last, isBad));
      } catch (thrown) {
        warn(`the placement could not be put back: ${RallyError.from(thrown).message}`);
      }
      await new Promise<void>((resolve) => clock.after(TRY_AGAIN_MS, resolve));
    }
  }
}
